"""Shares: what they add up to, and whether their intervals hold what they should."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dist_attr.auditing import fidelity_of, net_effect, positive_share, shares
from dist_attr.store import MeasuredFidelity

Floats = NDArray[np.float64]
SOURCES = 6


def drawn(number: int, seed: int = 0, sources: int = SOURCES) -> tuple[Floats, Floats]:
    draw = np.random.default_rng(seed)
    means = np.linspace(-0.5, 1.5, sources)
    return means + draw.standard_normal((number, sources)), draw.integers(1, 4, number).astype(float)


def measured(correlation: float, **others: object) -> MeasuredFidelity:
    values = {"truth": "this run", "readout": "linear", "dropped": 2, "retrained": 40, "queries": 32, **others}
    return MeasuredFidelity.model_validate({**values, "correlation": correlation})


def test_shares_add_up_to_one_and_net_effects_to_the_mean_of_all() -> None:
    effects, weights = drawn(50)
    assert positive_share(effects, weights).sum() == pytest.approx(1)
    assert net_effect(effects, weights).sum() == pytest.approx(np.average(effects.sum(1), weights=weights))


def test_a_weight_is_a_repetition() -> None:
    effects, weights = drawn(50)
    again = np.repeat(effects, weights.astype(int), axis=0)
    for figure in (positive_share, net_effect):
        np.testing.assert_allclose(figure(effects, weights), figure(again, np.ones(len(again))))


def test_by_hand() -> None:
    effects = np.array([[3.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    np.testing.assert_allclose(positive_share(effects, np.array([1.0, 2.0])), [5 / 7, 2 / 7, 0])
    np.testing.assert_allclose(net_effect(effects, np.array([1.0, 2.0])), [5 / 3, 1 / 3, -4 / 3])


def test_what_is_known_of_a_part_does_not_depend_on_the_order_of_the_sources() -> None:
    effects, weights = drawn(40)
    found, other = shares(effects, weights, resamples=200), shares(effects[:, ::-1], weights, resamples=200)
    np.testing.assert_allclose(found.positive.low, other.positive.low[::-1])
    np.testing.assert_array_equal(found.distinct, other.distinct[::-1])


def coverage(found: list[tuple[Floats, Floats]], true: list[Floats]) -> float:
    return float(np.mean([(low <= t) & (t <= high) for (low, high), t in zip(found, true, strict=True)]))


def test_intervals_over_answers_hold_the_figures_of_all_answers() -> None:
    effects, weights = drawn(200_000)
    share, net = positive_share(effects, weights), net_effect(effects, weights)
    positive, effect = [], []
    for seed in range(60):
        some = np.random.default_rng(seed).integers(len(effects), size=60)
        found = shares(effects[some], weights[some], resamples=300, seed=seed)
        positive.append((found.positive.low, found.positive.high))
        effect.append((found.net.low, found.net.high))
    assert 0.89 < coverage(positive, [share] * 60) < 0.99
    assert 0.89 < coverage(effect, [net] * 60) < 0.99


@pytest.mark.parametrize("correlation", [0.9, 0.6])
def test_intervals_with_fidelity_hold_the_true_figures(correlation: float) -> None:
    """True effects are drawn as the fidelity says, the errors of a source the same in all answers."""
    slope, plain, wide, true = 0.7, [], [], []
    for seed in range(80):
        effects, weights = drawn(60, seed, sources=20)
        draw = np.random.default_rng(1000 + seed)
        spread = effects.std(axis=1, keepdims=True)
        noise = spread * np.sqrt(1 / correlation**2 - 1) * draw.standard_normal(20)
        true.append(net_effect(slope * (effects + noise), weights))
        found = shares(effects, weights, fidelity=measured(correlation, slope=slope), resamples=300, seed=seed)
        assert found.net.fidelity_low is not None and found.net.fidelity_high is not None
        plain.append((found.net.low, found.net.high))
        wide.append((found.net.fidelity_low, found.net.fidelity_high))
    assert coverage(plain, true) < 0.7
    assert coverage(wide, true) > 0.93


def test_more_answers_do_not_mend_what_is_wrong_with_the_scores() -> None:
    effects, weights = drawn(3000)
    found = shares(effects, weights, fidelity=measured(0.7), resamples=200)
    assert found.net.fidelity_low is not None
    assert (found.net.value - found.net.fidelity_low > 5 * (found.net.value - found.net.low)).all()


def test_the_lower_the_fidelity_and_the_wider_its_interval_the_wider_those_of_the_sources() -> None:
    effects, weights = drawn(300)

    def width(fidelity: MeasuredFidelity) -> float:
        found = shares(effects, weights, fidelity=fidelity, resamples=400).net
        assert found.fidelity_low is not None and found.fidelity_high is not None
        return float((found.fidelity_high - found.fidelity_low).mean())

    certain, loose, low, noisy_truth = (
        width(measured(0.9)),
        width(measured(0.9, interval=(0.3, 0.99))),
        width(measured(0.5)),
        width(measured(0.9, ceiling=0.91)),
    )
    assert noisy_truth < certain < loose < low


def test_a_source_without_effect_is_not_distinct_and_one_with_a_large_one_is() -> None:
    effects = np.random.default_rng(0).standard_normal((400, 300))
    effects[:, 0] += 1
    effects[:, 1] -= 1
    found = shares(effects, np.ones(400), resamples=300)
    assert found.distinct[:2].all() and 0.01 < found.distinct[2:].mean() < 0.1  # by chance one in twenty
    assert not shares(effects, np.ones(400), fidelity=measured(0.1), resamples=300).distinct[2:].any()
    assert not shares(effects, np.ones(400), errors=np.full_like(effects, 2.0), resamples=300).distinct.any()


def test_the_value_is_never_outside_its_intervals() -> None:
    effects, weights = drawn(100)
    effects[:, 0] += 20  # noise takes from the share of a source that has nearly everything
    found = shares(effects, weights, fidelity=measured(0.3, slope=0.5), resamples=200)
    for figure in (found.positive, found.net):
        assert figure.fidelity_low is not None and figure.fidelity_high is not None
        assert (figure.low <= figure.value).all() and (figure.value <= figure.high).all()
        assert (figure.fidelity_low <= figure.value).all() and (figure.value <= figure.fidelity_high).all()


def test_where_nothing_is_positive_there_is_no_share() -> None:
    found = shares(-np.ones((20, 2)), np.ones(20), fidelity=measured(0.999), resamples=100)
    assert np.isnan(found.positive.value).all() and found.distinct.all()


def test_a_handful_of_answers_has_no_interval() -> None:
    effects, weights = drawn(9)
    found = shares(effects, weights)
    assert np.isnan(found.net.low).all() and not found.distinct.any()
    np.testing.assert_allclose(found.net.value, net_effect(effects, weights))


def test_the_fidelity_is_that_of_the_readout_and_of_fewest_sources_dropped() -> None:
    all_of_them = (
        measured(0.9, dropped=5),
        measured(0.8, dropped=1),
        measured(0.7, truth="any such run"),
        measured(0.6, readout="counterfactual"),
    )
    assert fidelity_of(all_of_them, "linear", "this run") is all_of_them[1]
    assert fidelity_of(all_of_them, "central-difference", "any such run") is all_of_them[2]
    assert fidelity_of(all_of_them, "counterfactual", "this run") is all_of_them[3]
    assert fidelity_of(all_of_them, "counterfactual", "any such run") is None


@pytest.mark.parametrize(
    ("effects", "weights"),
    [
        (np.ones((0, 2)), np.ones(0)),
        (np.ones((2, 2)), np.ones(3)),
        (np.full((2, 2), np.nan), np.ones(2)),
        (np.ones((2, 2)), np.array([1.0, 0.0])),
    ],
)
def test_what_cannot_be_summed_up_is_refused(effects: Floats, weights: Floats) -> None:
    with pytest.raises(ValueError, match=r"effects"):
        shares(effects, weights)
