"""The queries of a comparison, with the groups they are split by."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import Field

from dist_attr.errors import QueryError
from dist_attr.readout import Query, read_queries


class Question(Query):
    """A query with a name, and a label such as "in-domain" that it is counted under."""

    id: str | None = Field(None, coerce_numbers_to_str=True, description="its number in the file, from 0, by default")
    group: str | None = Field(None, coerce_numbers_to_str=True)


def read_questions(path: str, groups: Collection[str] = ()) -> list[Question]:
    """The queries in a JSONL, JSONL.gz or Parquet file with prompt, completion and, if you like, id and group.

    Args:
        path: of the file, any fsspec URL.
        groups: only the queries with one of these labels; all by default.

    Raises:
        CorpusError: the file is missing or damaged, or of another kind.
        QueryError: a row is no query, an id occurs twice, there is no query, or none of a group.
    """
    found = [
        question if question.id is not None else question.model_copy(update={"id": str(number)})
        for number, question in enumerate(read_queries(path, Question))
    ]
    if not found:
        raise QueryError(f"{path} holds no queries; each line is a JSON object with a prompt and a completion")
    first: dict[str | None, int] = {}
    for number, question in enumerate(found):
        if first.setdefault(question.id, number) != number:
            raise QueryError(
                f"{path}: queries {first[question.id]} and {number}, counted from 0, have the same id "
                f"{question.id!r}; each needs its own, or none"
            )
    there = {question.group: None for question in found if question.group is not None}
    if missing := [group for group in groups if group not in there]:
        raise QueryError(
            f"{path} has no query of the group {missing[0]!r}; its groups are: {', '.join(map(repr, there)) or 'none'}"
        )
    return [question for question in found if not groups or question.group in groups]
