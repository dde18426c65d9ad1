"""How well predicted effects of removing sources rank the true ones: the linear datamodeling score (LDS).

Source: Park et al., TRAK: Attributing Model Behavior at Scale (2023), definition 2.3, as used in Ilharco et al., MAGIC:
Near-Optimal Data Attribution for Deep Learning (2025) with few sources dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LDS:
    """A linear datamodeling score.

    Attributes:
        value: mean over queries of the rank correlation over subsets, −1 to 1.
        low: lower end of its 95 % bootstrap interval.
        high: upper end.
        per_query: (queries,) the rank correlation of each query.
    """

    value: float
    low: float
    high: float
    per_query: Floats

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def lds(predicted: Floats, true: Floats, *, resamples: int = 2000, seed: int = 0) -> LDS:
    """Spearman correlation over subsets of predicted and true outputs, averaged over queries.

    The interval is the percentile bootstrap over subsets and queries together, both being samples: it covers other
    subsets and other queries of the same kind, not other training runs.

    Args:
        predicted: (subsets, queries) predicted outputs, or changes of the output; only their ranks count.
        true: (subsets, queries) outputs of the models retrained without each subset.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: shapes differ, there are fewer than 3 subsets or no queries, or a value is not finite.
    """
    if predicted.shape != true.shape or predicted.ndim != 2 or len(true) < 3 or true.shape[1] == 0:
        raise ValueError(f"need two arrays (3 or more subsets, queries), not {predicted.shape} and {true.shape}")
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        raise ValueError("predicted and true outputs must be finite")
    per_query = _rank_correlations(predicted, true)
    subsets, queries = true.shape
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        rows, columns = generator.integers(subsets, size=subsets), generator.integers(queries, size=queries)
        means.append(_rank_correlations(predicted[rows], true[rows])[columns].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    return LDS(float(per_query.mean()), float(low), float(high), per_query)


def noise_ceiling(outputs: Floats) -> float:
    """The LDS that the expected outputs themselves would have against a mean over runs with different seeds.

    A mean over few runs is a noisy truth, and no prediction that knows nothing of these very runs does better. It is
    taken from split-half reliability: the runs are divided into two halves in every way, the rank correlation of the
    halves' means over subsets is averaged over divisions and queries, and brought from the length of a half to that of
    all runs by the Spearman-Brown formula. What has no noise correlates with the mean as the root of its reliability.

    Args:
        outputs: (runs, subsets, queries) outputs of models retrained without each subset, four or more runs.

    Raises:
        ValueError: there are fewer than 4 runs or 3 subsets, no queries, or a value is not finite.
    """
    runs, half = len(outputs), len(outputs) // 2
    if outputs.ndim != 3 or runs < 4 or outputs.shape[1] < 3 or outputs.shape[2] == 0:
        raise ValueError(f"need outputs (4 or more runs, 3 or more subsets, queries), not {outputs.shape}")
    if not np.isfinite(outputs).all():
        raise ValueError("outputs must be finite")
    between = [
        _rank_correlations(outputs[list(some)].mean(axis=0), outputs[list(others)].mean(axis=0)).mean()
        for some in combinations(range(runs), half)
        for others in combinations(sorted(set(range(runs)) - set(some)), half)
    ]
    correlation, times = max(0.0, float(np.mean(between))), runs / half
    return math.sqrt(times * correlation / (1 + (times - 1) * correlation))


def predicted_change(scores: NDArray[np.floating[Any]], dropped: NDArray[np.bool_]) -> Floats:
    """What scores say that removing sources does to log p(completion | prompt).

    Args:
        scores: (queries, sources) in nats per unit source weight.
        dropped: (subsets, sources), true where the subset goes without the source.

    Returns:
        (subsets, queries): −Σ of the scores of the dropped sources, nats.
    """
    change: Floats = -(dropped.astype(np.float64) @ np.asarray(scores, np.float64).T)
    return change


def drop_subsets(sources: int, subsets: int, dropped: int, seed: int) -> NDArray[np.bool_]:
    """Distinct random choices of `dropped` sources, (subsets, sources), true where a source is dropped.

    Raises:
        ValueError: there are not that many choices.
    """
    if not 0 <= dropped <= sources or subsets > math.comb(sources, dropped):
        raise ValueError(f"there are no {subsets} different ways to drop {dropped} of {sources} sources")
    generator = np.random.default_rng(seed)
    chosen: set[tuple[int, ...]] = set()
    while len(chosen) < subsets:
        chosen.add(tuple(sorted(generator.permutation(sources)[:dropped].tolist())))
    # In sorted order, since a set has none.
    return np.array([[source in subset for source in range(sources)] for subset in sorted(chosen)])


def _rank_correlations(first: Floats, second: Floats) -> Floats:
    """scipy.stats.spearmanr of each pair of columns, but all at once, and 0 where a column is constant."""
    first, second = (ranks - ranks.mean(axis=0) for ranks in (rankdata(first, axis=0), rankdata(second, axis=0)))
    norms = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    products: Floats = (first * second).sum(axis=0)
    return np.where(norms > 0, products / np.where(norms > 0, norms, 1.0), 0.0)
