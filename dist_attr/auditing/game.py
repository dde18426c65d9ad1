"""Shapley values of sources that are taken away together.

Taking away a set R of sources costs an answer c(R) nats. Scores of single sources say c({b}); where sources say the
same, what two of them cost together is not the sum. Shapley's value divides c(all), the whole of it: to each source
what its going costs, averaged over all orders in which the sources could go one after another.

The values are linear in the costs, and so are their estimates from some orders only: `allocation` is that linear map.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import factorial

import numpy as np
from numpy.typing import NDArray

from dist_attr.errors import ConfigError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Game:
    """Which sets of sources are taken away, and what their costs say of each source.

    Attributes:
        removed: (sets, sources), true where the set takes the source away. No set is empty, since that costs nothing.
        allocation: (sets, sources), what a source's value takes of each cost.
        exact: all sets are there; otherwise the values are estimates from some orders.
    """

    removed: NDArray[np.bool_]
    allocation: Floats
    exact: bool

    @classmethod
    def of(cls, sources: int, most: int, seed: int) -> Game:
        """All sets, if there are no more than `most`, else those that random orders lead through.

        Each order is taken with its reverse, which comes to the truth sooner: a source that goes early in the one goes
        late in the other, and where sources matter to each other in pairs alone, one such couple is enough.

        Raises:
            ConfigError: not even one order and its reverse can be had with so many.
        """
        if sources <= most.bit_length() and 2**sources - 1 <= most:
            return _exact(sources)
        pairs = (most - 1) // (2 * (sources - 1))
        if pairs < 1:
            raise ConfigError(
                f"Shapley values of {sources} sources need {2 * sources - 1} sets of sources a query or more, "
                f"not {most}; raise --shapley"
            )
        draw = np.random.default_rng(seed)
        orders = [order for _ in range(pairs) for order in _both_ways(draw.permutation(sources))]
        rows: dict[bytes, int] = {}
        sets, weights = list[NDArray[np.bool_]](), list[Floats]()
        for order in orders:
            gone, before = np.zeros(sources, np.bool_), None
            for source in order:
                gone = gone.copy()
                gone[source] = True
                row = rows.setdefault(gone.tobytes(), len(rows))
                if row == len(sets):
                    sets.append(gone)
                    weights.append(np.zeros(sources))
                weights[row][source] += 1
                if before is not None:
                    weights[before][source] -= 1
                before = row
        return cls(np.array(sets), np.array(weights) / len(orders), exact=False)

    def values(self, costs: Floats) -> Floats:
        """Costs (queries, sets), nats, as values (queries, sources); they add up to the cost of taking all away."""
        return costs @ self.allocation


def _exact(sources: int) -> Game:
    removed = np.array(list(product((False, True), repeat=sources))[1:])
    sizes = removed.sum(1)
    # Of all orders the share in which exactly the rest of the set has gone before the source, or all of the set.
    within = np.array([0.0, *(factorial(n - 1) * factorial(sources - n) for n in range(1, sources + 1))])
    without = np.array([*(factorial(n) * factorial(sources - n - 1) for n in range(sources)), 0.0])
    allocation = np.where(removed, within[sizes][:, None], -without[sizes][:, None]) / factorial(sources)
    return Game(removed, allocation, exact=True)


def _both_ways(order: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return order, order[::-1]
