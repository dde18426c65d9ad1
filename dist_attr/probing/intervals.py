"""Bootstrap intervals over queries: what another sample of queries of the same kind might have said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

FEWEST = 8  # queries that an interval is given for; of fewer it would cover much less than it says
RESAMPLES = 2000
AT_ONCE = 2**22  # numbers in the resamples that are computed together

Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def interval(statistic: Statistic, queries: int, width: int, seed: int) -> tuple[float, float] | None:
    """95 % interval of a figure over resampled queries.

    Bias-corrected and accelerated (BCa). Where the resamples lie on one side of the figure, scipy does not define it,
    and where nearly all do, the correction goes so far that it leaves the figure out: the percentiles are taken then,
    which may lie beside the figure but are as wide as what other queries might have said. There is none for fewer than
    8 queries, where a resample lacks the figure, or where all resamples say the same: ten queries without a hit do not
    say that there is never one.

    Args:
        statistic: of numbers of queries (resamples, queries), a figure for each resample.
        queries: how many there are.
        width: numbers that a resample of one query takes, for memory.
        seed: of the resamples.
    """
    if queries < FEWEST:
        return None

    def of_resamples(drawn: NDArray[np.int64], axis: int = -1) -> Any:
        figures = statistic(np.moveaxis(np.atleast_2d(drawn), axis, -1))
        return figures if drawn.ndim > 1 else figures[0]

    batch = max(1, AT_ONCE // (queries + width))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of degenerate resamples, which are seen to below
        found = bootstrap(
            (np.arange(queries),), of_resamples, n_resamples=RESAMPLES, batch=batch, vectorized=True, axis=-1, rng=seed
        )
    figures = found.bootstrap_distribution
    if not np.isfinite(figures).all() or np.ptp(figures) == 0:
        return None
    ends, figure = np.array(found.confidence_interval), of_resamples(np.arange(queries))
    if not ends[0] <= figure <= ends[1]:  # NaN where it is not defined
        ends = np.percentile(figures, [2.5, 97.5])
    return float(ends[0]), float(ends[1])
