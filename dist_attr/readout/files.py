"""Queries in files."""

from __future__ import annotations

from pydantic import ValidationError

from dist_attr.corpus import read_rows
from dist_attr.errors import QueryError
from dist_attr.readout.query import Query


def read_queries(path: str) -> list[Query]:
    """The queries of a JSONL or Parquet file at any fsspec URL, with the fields of `Query`.

    Raises:
        CorpusError: the file cannot be read.
        QueryError: a row is no query; its place is named.
    """
    found = []
    for place, row in read_rows(path):
        try:
            found.append(Query.model_validate(row))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise QueryError(
                f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}; a query has a prompt and a completion"
            ) from error
    return found
