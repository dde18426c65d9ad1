"""What a readout says of queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dist_attr.influence import ReadoutBasis

Numbers = NDArray[np.float32]


class Along(NamedTuple):
    """What was read out of one query.

    Attributes:
        scores: of its completion tokens along some directions, (directions, completion tokens).
        logprobs: log p of these tokens, (completion tokens,), nats.
    """

    scores: Numbers
    logprobs: Numbers


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores of some queries, in nats per unit source weight. Positive: the source made the answer likelier.

    Attributes:
        sources: names, length S.
        scores: (queries, S), the sum over each query's completion tokens.
        token_scores: for each query (S, completion tokens).
        tokens: for each query the completion's tokens as strings.
        token_logprobs: for each query log p of the completion's tokens, (completion tokens,).
        errors: standard errors of the scores by what the readout basis leaves out; none of a readout without a basis.
        token_errors: the same of the token scores.
        baseline_logprobs: of each query's baseline, nats; none for a query without. With a baseline the score is the
            difference between the completion's and the baseline's; token scores are those of the completion.
    """

    sources: list[str]
    scores: Numbers
    token_scores: list[Numbers]
    tokens: list[list[str]]
    token_logprobs: list[Numbers]
    errors: Numbers | None = None
    token_errors: list[Numbers] | None = None
    baseline_logprobs: Sequence[float | None] = ()

    @classmethod
    def of(
        cls,
        sources: Sequence[str],
        read: Sequence[Along],
        tokens: Sequence[list[str]],
        basis: ReadoutBasis | None = None,
        baselines: Sequence[Along | None] = (),
    ) -> Attribution:
        """From what was read out along each source's tangent or, with a basis, along its first directions.

        Args:
            sources: the names of all sources.
            read: of each query.
            tokens: the completion's tokens of each query, as strings.
            basis: what the directions belong to.
            baselines: what was read out of the queries' baselines; none by default.
        """
        baselines = list(baselines) or [None] * len(read)

        def of_sources(along: Numbers) -> Numbers:
            return along if basis is None else basis.of_sources(torch.from_numpy(along)).numpy()

        own = [of_sources(of_query.scores) for of_query in read]
        others = [None if other is None else of_sources(other.scores).sum(1) for other in baselines]
        # Along the directions of a basis, which its error bars are reckoned from.
        whole = [
            torch.from_numpy(of_query.scores.sum(1) - (0 if other is None else other.scores.sum(1)))
            for of_query, other in zip(read, baselines, strict=True)
        ]
        return cls(
            list(sources),
            _stacked(
                [scores.sum(1) - (0 if other is None else other) for scores, other in zip(own, others, strict=True)],
                len(sources),
            ),
            own,
            list(tokens),
            [of_query.logprobs for of_query in read],
            None if basis is None else _stacked([basis.error(a).numpy() for a in whole], len(sources)),
            None
            if basis is None
            else [basis.token_error(torch.from_numpy(of_query.scores)).numpy() for of_query in read],
            [None if other is None else float(other.logprobs.sum()) for other in baselines],
        )


def _stacked(rows: Sequence[Numbers], width: int) -> Numbers:
    return np.stack(list(rows)) if rows else np.empty((0, width), np.float32)
