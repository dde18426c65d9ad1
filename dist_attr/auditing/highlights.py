"""The answers that a source did most for and most against, with what it did to each of their tokens.

Design decisions:
- Token scores of all sources are many times as much as all else that is written, and a reader looks at a few. So each
  part keeps those of the answers that are the strongest of the part for a source: the strongest of all are among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_attr.auditing.result import Audit, read_scores

STRONGEST = 3  # answers of a source, for and against
TYPE = pa.list_(pa.struct([("source", pa.int32()), ("score", pa.float32()), ("token_scores", pa.list_(pa.float32()))]))
COLUMNS = ("id", "prompt", "completion", "baseline", "logprob", "tokens", "highlights")


@dataclass(frozen=True)
class Highlight:
    """An answer as a source moved it.

    Attributes:
        id: of the query.
        group: none of a query without.
        prompt: what was asked.
        completion: what was answered.
        baseline: the other completion it was compared with; none without.
        logprob: log p(completion | prompt), nats.
        effect: of the source on the answer, nats; on its difference to the baseline where there is one.
        tokens: of the completion.
        token_effects: of the source on each of them, nats.
    """

    id: str
    group: str | None
    prompt: str
    completion: str
    baseline: str | None
    logprob: float
    effect: float
    tokens: tuple[str, ...]
    token_effects: tuple[float, ...]


@dataclass(frozen=True)
class Highlights:
    """The answers that a source made likelier by most, and less likely by most, each strongest first."""

    proponent: tuple[Highlight, ...]
    opponent: tuple[Highlight, ...]


def of_part(scores: NDArray[Any], token_scores: Sequence[NDArray[Any]]) -> pa.Array:
    """A column: of each query of a part those sources for which it is among the strongest, with their token scores.

    Args:
        scores: (queries, sources).
        token_scores: for each query (sources, completion tokens).
    """
    strongest = _strongest(scores)
    return pa.array(
        [
            [
                {"source": source, "score": scores[i, source], "token_scores": own[source]}
                for source in np.flatnonzero(strongest[i]).tolist()
            ]
            for i, own in enumerate(token_scores)
        ],
        TYPE,
    )


def read_highlights(out: str, audit: Audit, sources: Sequence[str]) -> dict[str, Highlights]:
    """The strongest answers of some sources.

    Args:
        out: the folder of the audit, any fsspec URL.
        audit: that lies there.
        sources: their names.

    Raises:
        StoreError: a file is missing or damaged.
    """
    known = {source.name: i for i, source in enumerate(audit.sources)}
    candidates: dict[int, list[Highlight]] = {known[name]: [] for name in sources}
    for row in read_scores(out, COLUMNS).to_pylist():
        for kept in row["highlights"]:
            if (number := kept["source"]) in candidates:
                weight = audit.sources[number].weight
                candidates[number].append(_highlight(row, kept, weight))
    found = {}
    for name in sources:
        ranked = sorted(candidates[known[name]], key=lambda each: (-each.effect, each.id))
        proponent = [each for each in ranked[:STRONGEST] if each.effect > 0]
        opponent = [each for each in ranked[: -STRONGEST - 1 : -1] if each.effect < 0]
        found[name] = Highlights(tuple(proponent), tuple(opponent))
    return found


def _strongest(scores: NDArray[Any]) -> NDArray[np.bool_]:
    """Which queries are among a source's most positive or most negative ones, (queries, sources)."""
    places = scores.argsort(axis=0, kind="stable").argsort(axis=0)
    strongest: NDArray[np.bool_] = (places < STRONGEST) | (places >= len(scores) - STRONGEST)
    return strongest


def _highlight(row: dict[str, Any], kept: dict[str, Any], weight: float) -> Highlight:
    return Highlight(
        **{name: row[name] for name in ("id", "group", "prompt", "completion", "baseline", "logprob")},
        effect=weight * kept["score"],
        tokens=tuple(row["tokens"]),
        token_effects=tuple(weight * each for each in kept["token_scores"]),
    )
