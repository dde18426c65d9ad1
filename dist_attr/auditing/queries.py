"""The answers that an audit is about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field, field_validator

from dist_attr.corpus import Tokenizer
from dist_attr.errors import QueryError
from dist_attr.readout import Query, encode_queries, read_queries

NAMED = 5  # of many ids, in an error


class AuditQuery(Query):
    """A query with a name, a group that it is counted in, and a weight that it is counted with."""

    id: str | None = Field(
        None, min_length=1, coerce_numbers_to_str=True, description="by default a digest of the texts"
    )
    group: str | None = Field(None, min_length=1, coerce_numbers_to_str=True)
    weight: float = Field(1.0, gt=0)

    @field_validator("weight", mode="before")
    @classmethod
    def _missing(cls, weight: Any) -> Any:
        """A table has a value in each row, and spells a missing one as none."""
        return 1.0 if weight is None else weight

    @property
    def name(self) -> str:
        """Its id."""
        if self.id is not None:
            return self.id
        texts = json.dumps([self.prompt, self.completion, self.baseline])
        return hashlib.sha256(texts.encode()).hexdigest()[:16]


def read_audit_queries(path: str) -> list[AuditQuery]:
    """The queries in a JSONL, JSONL.gz or Parquet file, each with an id of its own.

    Args:
        path: of the file, any fsspec URL.

    Raises:
        CorpusError: the file is missing or damaged, or of another kind.
        QueryError: a row is no query, ids occur twice, or there is no query.
    """
    found = [query.model_copy(update={"id": query.name}) for query in read_queries(path, AuditQuery)]
    if not found:
        raise QueryError(f"{path} holds no queries; each row has a prompt and a completion")
    counts: dict[str, int] = {}
    for query in found:
        counts[query.name] = counts.get(query.name, 0) + 1
    if twice := [name for name, times in counts.items() if times > 1]:
        raise QueryError(
            f"{path}: {named(twice)} more than once; give each row an id of its own, or write a repeated answer once, "
            "with its number as the weight (rows without an id are told apart by their texts)"
        )
    return found


def lengths(queries: Sequence[AuditQuery], tokenizer: Tokenizer, context: int) -> list[int]:
    """Tokens of each query, of its baseline if that is longer.

    Raises:
        QueryError: some cannot be scored; it names them, and says what is the matter with the first.
    """
    found = []

    def measure(query: AuditQuery) -> None:
        (own,), (baseline,) = encode_queries([query], tokenizer, context)
        found.append(max(len(own.tokens), 0 if baseline is None else len(baseline.tokens)))

    refuse(queries, measure, "scored")
    return found


def refuse(queries: Sequence[AuditQuery], check: Callable[[AuditQuery], None], what: str) -> None:
    """Check every query, and refuse them all if one is wrong.

    Args:
        queries: which.
        check: raises QueryError of query 0 where the one it is given is wrong.
        what: cannot be done to it then, as "scored".

    Raises:
        QueryError: it names those that are wrong, and says what is the matter with the first.
    """
    wrong = dict[str, str]()
    for query in queries:
        try:
            check(query)
        except QueryError as error:
            wrong[query.name] = str(error).removeprefix("query 0: ")
    if wrong:
        raise QueryError(
            f"{len(wrong)} of {len(queries)} queries cannot be {what}, {named(list(wrong))}: "
            f"{next(iter(wrong.values()))}"
        )


def named(ids: Sequence[str]) -> str:
    """Some ids in words."""
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return f"the id{'s' * (len(ids) > 1)} {', '.join(map(repr, ids[:NAMED]))}{more}"
