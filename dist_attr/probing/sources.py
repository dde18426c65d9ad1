"""From passages to sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_attr.errors import QueryError
from dist_attr.probing.prober import Probe


@dataclass(frozen=True, eq=False)
class SourceProbe:
    """What probing with a source's passages says of it, for one query.

    Attributes:
        source: its name.
        mean: of its passages' scores, nats; so are the next two.
        median: of the same.
        best: the largest.
        documents: how many documents its passages are of.
        tokens: mean length of its passages.
    """

    source: str
    mean: float
    median: float
    best: float
    documents: int
    tokens: float


def by_source(probe: Probe, sources: Sequence[str]) -> list[SourceProbe]:
    """The scores of a query's passages summed up for each source, in the order given.

    Raises:
        QueryError: the query was not probed with any passage of a source.
    """
    found = []
    for source in sources:
        own = [number for number, passage in enumerate(probe.passages) if passage.source == source]
        if not own:
            raise QueryError(f"no passage of the source {source!r} was put into the prompt; choose some of it")
        scores = probe.scores[own]
        documents = len({probe.passages[number].document for number in own})
        tokens = float(np.mean([len(probe.passages[number].tokens) for number in own]))
        found.append(
            SourceProbe(source, float(scores.mean()), float(np.median(scores)), float(scores.max()), documents, tokens)
        )
    return found


def golden_score(scores: NDArray[Any]) -> NDArray[np.float64]:
    """The share of queries that a passage makes likelier: scores (queries, D) -> (D,).

    Raises:
        QueryError: there is no query.
    """
    if not len(scores):
        raise QueryError("the golden score is a share of queries, and there are none")
    return np.asarray((scores > 0).mean(0), np.float64)
