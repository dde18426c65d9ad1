"""How two rankings of the same sources agree: rank correlations and the overlap of their tops, row by row.

Design decisions:
- Every function takes rows (..., sources) and returns one figure for each. A row in which all sources are alike has no
  ranking: its figure is NaN, for the caller to leave out and count, and never a 0 that looks like a measurement.
- Ties share the mean of their ranks, and a tie that the edge of the top goes through is in it with the share that
  random choice among the tied would give, so that no figure depends on the order of the sources.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

# Of a residual's length to that of the ranks: below it the controls explain everything, and what is left is rounding.
NOTHING_LEFT = 1e-9


def spearman(first: Floats, second: Floats) -> Floats:
    """Spearman's rank correlation of each pair of rows, (...,)."""
    return _pearson(_centred_ranks(first), _centred_ranks(second))


def kendall(first: Floats, second: Floats) -> Floats:
    """Kendall's τ-b of each pair of rows, (...,)."""
    found = np.asarray(stats.kendalltau(first, second, axis=-1).statistic, np.float64)
    return np.where(_constant(first) | _constant(second), np.nan, found)


def partial_spearman(first: Floats, second: Floats, controls: Floats) -> Floats:
    """Rank correlation of what the controls leave unexplained: Pearson's of the residuals of the ranks, (...,).

    Ranks of both rows are fitted by least squares with a constant and the controls' ranks.

    Args:
        first: (..., sources).
        second: the same.
        controls: (..., controls, sources). A control in which all sources are alike explains nothing.

    Returns:
        NaN, too, where the controls explain one of them whole, or there are fewer than 3 sources more than controls.
    """
    sources, number = first.shape[-1], controls.shape[-2]
    if sources < number + 3:
        return np.full(first.shape[:-1], np.nan)
    design = _centred_ranks(controls)
    longest = np.linalg.norm(design, axis=-1, keepdims=True)
    _, sizes, directions = np.linalg.svd(design / np.where(longest > 0, longest, 1.0), full_matrices=False)
    spanned = directions * (sizes > 1e-9)[..., None]

    def residual(rows: Floats) -> Floats:
        ranks = _centred_ranks(rows)
        explained = np.einsum("...cs,...c->...s", spanned, np.einsum("...cs,...s->...c", spanned, ranks))
        left: Floats = ranks - explained
        kept = np.linalg.norm(left, axis=-1, keepdims=True) > NOTHING_LEFT * np.linalg.norm(
            ranks, axis=-1, keepdims=True
        )
        return np.where(kept, left, 0.0)

    return _pearson(residual(first), residual(second))


def top_overlap(first: Floats, second: Floats, k: int) -> Floats:
    """Share of the k largest of one row that are among the k largest of the other, (...,); k / sources by chance."""
    shared = (_in_top(first, k) * _in_top(second, k)).sum(axis=-1) / k
    return np.where(_constant(first) | _constant(second), np.nan, shared)


def overlap_p(overlap: Floats, k: int, sources: int) -> Floats:
    """Probability that two unrelated rankings share so much of their top k, or more (hypergeometric).

    A share that ties leave between two numbers of sources is taken as the lower, which is the larger probability.
    """
    shared = np.floor(overlap * k + 1e-9)
    return np.where(np.isnan(overlap), np.nan, stats.hypergeom.sf(shared - 1, sources, k, k))


def _centred_ranks(rows: Floats) -> Floats:
    ranks: Floats = np.asarray(stats.rankdata(rows, axis=-1), np.float64)
    mean: Floats = ranks.mean(axis=-1, keepdims=True)
    return ranks - mean


def _pearson(first: Floats, second: Floats) -> Floats:
    """Of rows whose mean is 0; NaN where one is all zeros."""
    norms = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    products: Floats = (first * second).sum(axis=-1)
    return np.where(norms > 0, np.clip(products / np.where(norms > 0, norms, 1.0), -1, 1), np.nan)


def _constant(rows: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.ptp(rows, axis=-1) == 0)


def _in_top(rows: Floats, k: int) -> Floats:
    """1 for a source among the k largest of its row, 0 for another, and in between for those tied at the edge."""
    edge = np.partition(rows, -k, axis=-1)[..., -k, None]
    above, tied = rows > edge, rows == edge
    room = k - above.sum(axis=-1, keepdims=True)
    found: NDArray[Any] = above + tied * (room / tied.sum(axis=-1, keepdims=True))
    return found.astype(np.float64)
