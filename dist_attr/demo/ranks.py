"""Does a held-out sentence rank the president who said it near the top?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dist_attr.demo.speeches import PRESIDENTS, HeldOut
from dist_attr.serving import AttributionResponse


@dataclass(frozen=True)
class RankCheck:
    """How well held-out sentences find their speaker.

    Attributes:
        mean_reciprocal_rank: of the speaker among the sources, with the standard error of the mean.
        standard_error: of mean_reciprocal_rank over the sentences.
        chance: the mean reciprocal rank of a random order.
        top3: share of sentences whose speaker is among the first three.
        distance: mean number of presidents between the speaker and the top source, in the order of time.
        chance_distance: the same for a random top source.
        sentences: how many.
    """

    mean_reciprocal_rank: float
    standard_error: float
    chance: float
    top3: float
    distance: float
    chance_distance: float
    sentences: int


def check_ranks(held_out: Sequence[HeldOut], answer: AttributionResponse) -> RankCheck:
    """Compare the ranking of each sentence's sources with who said it."""
    ranked = [[source.source for source in result.sources] for result in answer.results]
    ranks = np.array([1 + names.index(sentence.president) for names, sentence in zip(ranked, held_out, strict=True)])
    spoken = np.array([PRESIDENTS.index(sentence.president) for sentence in held_out])
    top = np.array([PRESIDENTS.index(names[0]) for names in ranked])
    number = len(PRESIDENTS)
    return RankCheck(
        mean_reciprocal_rank=float((1 / ranks).mean()),
        standard_error=float((1 / ranks).std(ddof=1) / np.sqrt(len(ranks))),
        chance=float((1 / np.arange(1, number + 1)).mean()),
        top3=float((ranks <= 3).mean()),
        distance=float(np.abs(spoken - top).mean()),
        chance_distance=float(np.abs(spoken[:, None] - np.arange(number)).mean()),
        sentences=len(ranks),
    )
