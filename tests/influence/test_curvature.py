"""The estimated ends of the spectrum against the Hessian's own eigenvalues."""

from __future__ import annotations

import pytest

from dist_attr.influence import (
    Curvature,
    estimate_curvature,
)
from tests.influence.problems import ONES, problem


def test_rate_bears_either_end_of_the_spectrum() -> None:
    assert Curvature(4.0, -1.0).rate(1.0) == 1 / 5
    assert Curvature(1.0, -4.0).rate(1.0) == 1 / 5


@pytest.mark.parametrize("model", ["logistic", "network"])
@pytest.mark.parametrize("sequences_per_pass", [64, 7])
def test_curvature_is_that_of_the_hessian(model: str, sequences_per_pass: int) -> None:
    chosen = problem(model, training=5)
    found = estimate_curvature(
        chosen.step,
        chosen.theta,
        ONES,
        chosen.batch,
        iterations=200,
        tolerance=1e-9,
        sequences_per_pass=sequences_per_pass,
    )
    assert found.largest == pytest.approx(chosen.curvature.largest, rel=1e-6)
    assert found.smallest == pytest.approx(chosen.curvature.smallest, abs=1e-6 * found.largest)


def test_curvature_at_its_defaults_gives_a_rate_that_is_stable() -> None:
    chosen = problem("network", training=5)
    found = estimate_curvature(chosen.step, chosen.theta, ONES, chosen.batch)
    assert found.largest == pytest.approx(chosen.curvature.largest, rel=0.02)
    assert found.smallest == pytest.approx(chosen.curvature.smallest, abs=0.02 * found.largest)
    assert found.rate(0.1) < 2 / (chosen.curvature.largest + 0.1)


@pytest.mark.parametrize("tolerance", [0.1, 0.03, 0.01])
def test_what_iteration_leaves_open_is_on_the_safe_side(tolerance: float) -> None:
    chosen = problem("network", training=5)
    true, found = (
        chosen.curvature,
        estimate_curvature(chosen.step, chosen.theta, ONES, chosen.batch, tolerance=tolerance),
    )
    assert 0 < found.largest - true.largest < 2 * tolerance * true.largest
    assert 0 < true.smallest - found.smallest < 2 * tolerance * true.largest
