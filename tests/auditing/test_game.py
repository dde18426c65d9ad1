"""Shapley values: what the axioms say of them, and that estimates come to them."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from dist_attr.auditing import Game
from dist_attr.errors import ConfigError


def costs_of(game: Game, seed: int = 0) -> NDArray[np.float64]:
    """Costs of a game of two answers in which sources do not add up, also not in pairs, (sets, 2)."""
    each = np.random.default_rng(seed).standard_normal((game.removed.shape[1], 2))
    return np.expm1(game.removed @ each)


def by_definition(sources: int, seed: int = 0) -> NDArray[np.float64]:
    """The mean over all orders of what a source's going costs, (2, sources)."""
    game = Game.of(sources, 2**sources, 0)
    costs = {row.tobytes(): cost for row, cost in zip(game.removed, costs_of(game, seed), strict=True)}
    total, orders = np.zeros((2, sources)), list(permutations(range(sources)))
    for order in orders:
        gone, before = np.zeros(sources, np.bool_), np.zeros(2)
        for source in order:
            gone[source] = True
            total[:, source] += costs[gone.tobytes()] - before
            before = costs[gone.tobytes()]
    return total / len(orders)


@pytest.mark.parametrize("sources", [1, 2, 5])
def test_all_sets_give_the_definition(sources: int) -> None:
    game = Game.of(sources, 2**sources - 1, 0)
    assert game.exact and len(game.removed) == 2**sources - 1
    np.testing.assert_allclose(game.values(costs_of(game).T), by_definition(sources), atol=1e-12)


@pytest.mark.parametrize("most", [31, 9])
def test_the_values_add_up_to_the_cost_of_all(most: int) -> None:
    game = Game.of(5, most, 0)
    costs = costs_of(game)
    (whole,) = costs[game.removed.all(1)]
    np.testing.assert_allclose(game.values(costs.T).sum(1), whole)


def test_some_orders_come_to_all_orders() -> None:
    true = by_definition(6)
    off = []
    for most in (21, 51):
        estimates = [Game.of(6, most, seed) for seed in range(300)]
        assert all(not game.exact and len(game.removed) <= most for game in estimates)
        values = np.stack([game.values(costs_of(game).T) for game in estimates])
        off.append(np.sqrt(((values - true) ** 2).mean()))
        np.testing.assert_allclose(values.mean(0), true, atol=5 * off[-1] / 300**0.5)  # no bias
    assert off[1] < 0.7 * off[0]


def test_an_order_and_its_reverse_are_enough_where_sources_matter_to_each_other_in_pairs() -> None:
    draw = np.random.default_rng(0)
    each, pairs = draw.standard_normal(30), np.triu(draw.standard_normal((30, 30)), 1)
    game = Game.of(30, 59, 0)
    costs = game.removed @ each + np.einsum("ka,ab,kb->k", game.removed, pairs, game.removed)
    np.testing.assert_allclose(game.values(costs[None])[0], each + (pairs.sum(0) + pairs.sum(1)) / 2, atol=1e-9)


def test_costs_that_add_up_are_the_values() -> None:
    draw = np.random.default_rng(0).standard_normal((3, 40))
    for most in (100, 2000):
        game = Game.of(40, most, 0)
        np.testing.assert_allclose(game.values(draw @ game.removed.T), draw, atol=1e-12)


def test_a_source_that_does_nothing_gets_nothing_and_equal_ones_get_the_same() -> None:
    game = Game.of(4, 15, 0)
    # The first two hold the same: either will do, and only without both something is lost.
    costs = (game.removed[:, 0] & game.removed[:, 1]) * 3.0 + game.removed[:, 2] * 1.0
    np.testing.assert_allclose(game.values(costs[None]), [[1.5, 1.5, 1.0, 0.0]], atol=1e-12)


def test_too_few_sets_are_refused() -> None:
    with pytest.raises(ConfigError, match="need 79 sets of sources a query or more, not 78"):
        Game.of(40, 78, 0)
    assert len(Game.of(40, 79, 0).removed) == 79
