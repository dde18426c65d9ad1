"""Queries from a file."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from dist_attr.corpus import read_rows
from dist_attr.errors import QueryError
from dist_attr.readout.query import Query

Kind = TypeVar("Kind", bound=Query)


def read_queries(path: str, kind: type[Kind]) -> list[Kind]:
    """The queries in a JSONL, JSONL.gz or Parquet file, one a row, in their order; there may be none.

    Args:
        path: of the file, any fsspec URL.
        kind: `Query`, or one with more fields. A field that it does not have is refused.

    Raises:
        CorpusError: the file is missing or damaged, or of another kind.
        QueryError: a row is no query.
    """
    found = []
    for place, row in read_rows(path, "--queries"):
        try:
            found.append(kind.model_validate(row))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise QueryError(
                f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}; a query has a prompt and a completion"
            ) from error
    return found
