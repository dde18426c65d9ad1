"""How well predicted effects of removing sources agree with the true ones: LDS, correlation, slope, and their limits.

Source: Park et al., TRAK: Attributing Model Behavior at Scale (2023), definition 2.3, as used in Ilharco et al., MAGIC:
Near-Optimal Data Attribution for Deep Learning (2025) with few sources dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: over all queries.
        low: lower end of its 95 % bootstrap interval.
        high: upper end.
        per_query: (queries,) the figure of each query.
    """

    value: float
    low: float
    high: float
    per_query: Floats

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def lds(predicted: Floats, true: Floats, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Spearman correlation over subsets of predicted and true outputs, averaged over queries: −1 to 1.

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
    return _estimate(rank_correlations, predicted, true, resamples, seed)


def pearson(predicted: Floats, true: Floats, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Pearson's correlation over subsets, averaged over queries. Arguments, interval and errors are those of `lds`."""
    return _estimate(_correlations, predicted, true, resamples, seed)


def calibration_slope(predicted: Floats, true: Floats, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """True change for each predicted one: Σ p·t / Σ p², a line through 0, since no change is predicted as none.

    1 is right, less says that scores are too large; 0 where nothing is predicted. The value weighs queries by how much
    is predicted of them.

    Args:
        predicted: (subsets, queries) predicted changes of the outputs, nats.
        true: (subsets, queries) true changes, nats.
        resamples: of the bootstrap, over subsets and queries as that of `lds`.
        seed: of the bootstrap.

    Raises:
        ValueError: as `lds` does.
    """
    _check(predicted, true)
    products, squares = predicted * true, predicted**2
    slopes = [
        _ratio(products[rows][:, columns].sum(), squares[rows][:, columns].sum())
        for rows, columns in _resampled(true.shape, resamples, seed)
    ]
    low, high = np.percentile(slopes, [2.5, 97.5])
    value = float(_ratio(products.sum(), squares.sum()))
    return Estimate(value, float(low), float(high), _ratio(products.sum(axis=0), squares.sum(axis=0)))


def lds_by_number(
    predicted: Floats, true: Floats, *, most: int = 12, draws: int = 200, seed: int = 0
) -> list[tuple[int, float, float, float]]:
    """How the LDS settles as subsets are added: what it would have been with fewer of them.

    Args:
        predicted: as for `lds`.
        true: as for `lds`.
        most: numbers of subsets to try.
        draws: choices of so many among all subsets.
        seed: of the choices.

    Returns:
        Number of subsets, mean LDS over the choices, and between which values 95 % of them lie; the last is of all.
    """
    subsets, generator, found = len(true), np.random.default_rng(seed), []
    for number in sorted({round(n) for n in np.linspace(3, subsets, most)}):
        chosen = [generator.permutation(subsets)[:number] for _ in range(draws if number < subsets else 1)]
        values = [rank_correlations(predicted[rows], true[rows]).mean() for rows in chosen]
        low, high = np.percentile(values, [2.5, 97.5])
        found.append((number, float(np.mean(values)), float(low), float(high)))
    return found


def _estimate(
    of_queries: Callable[[Floats, Floats], Floats], predicted: Floats, true: Floats, resamples: int, seed: int
) -> Estimate:
    """The mean over queries of a figure that each of them has."""
    _check(predicted, true)
    per_query = of_queries(predicted, true)
    means = [
        of_queries(predicted[rows], true[rows])[columns].mean()
        for rows, columns in _resampled(true.shape, resamples, seed)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(per_query.mean()), float(low), float(high), per_query)


def _check(predicted: Floats, true: Floats) -> None:
    if predicted.shape != true.shape or predicted.ndim != 2 or len(true) < 3 or true.shape[1] == 0:
        raise ValueError(f"need two arrays (3 or more subsets, queries), not {predicted.shape} and {true.shape}")
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        raise ValueError("predicted and true outputs must be finite")


def _resampled(
    shape: tuple[int, ...], resamples: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Subsets and queries, each drawn with replacement."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.integers(shape[0], size=shape[0]), generator.integers(shape[1], size=shape[1])


def _ratio(above: Any, below: Any) -> Any:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), 0.0)


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
        rank_correlations(outputs[list(some)].mean(axis=0), outputs[list(others)].mean(axis=0)).mean()
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


def rank_correlations(first: Floats, second: Floats) -> Floats:
    """scipy.stats.spearmanr of each pair of columns, but all at once, and 0 where a column is constant."""
    return _correlations(rankdata(first, axis=0), rankdata(second, axis=0))


def _correlations(first: Floats, second: Floats) -> Floats:
    """scipy.stats.pearsonr of each pair of columns, and 0 where a column is constant."""
    constant = (np.ptp(first, axis=0) == 0) | (np.ptp(second, axis=0) == 0)  # the deviations may be rounding, not 0
    first, second = (values - values.mean(axis=0) for values in (first, second))
    norms = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    products: Floats = (first * second).sum(axis=0)
    return np.where(constant, 0.0, products / np.where(constant | (norms == 0), 1.0, norms))
