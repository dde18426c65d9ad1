"""The linear datamodeling score, the predictions and the subsets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dattri.metric import lds as dattri_lds
from dattri.metric import loo_corr as dattri_loo
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from dist_attr.evaluation import (
    calibration_slope,
    drop_subsets,
    lds,
    lds_by_number,
    noise_ceiling,
    pearson,
    predicted_change,
)

Floats = NDArray[np.float64]


def noisy(subsets: int = 30, queries: int = 20, noise: float = 1.0) -> tuple[Floats, Floats]:
    draw = np.random.default_rng(0)
    true = draw.normal(size=(subsets, queries))
    return true + noise * draw.normal(size=true.shape), true


def test_a_case_worked_by_hand() -> None:
    # Ranks 1 2 3 4 against 1 3 2 4: 1 − 6·(0 + 1 + 1 + 0)/(4·15) = 0.8; and against 4 3 2 1: −1.
    predicted = np.array([[0.1, 1.0], [0.2, 2.0], [0.3, 3.0], [0.4, 4.0]])
    true = np.array([[-5.0, 9.0], [3.0, 8.0], [1.0, 7.0], [4.0, 6.0]])
    score = lds(predicted, true)
    np.testing.assert_allclose(score.per_query, [0.8, -1.0])
    assert score.value == pytest.approx(-0.1)


def test_per_query_values_are_scipys_ties_included() -> None:
    predicted, true = noisy()
    predicted, true = predicted.round(), true.round(1)
    expected = [spearmanr(predicted[:, query], true[:, query]).statistic for query in range(20)]
    score = lds(predicted, true, resamples=10)
    np.testing.assert_allclose(score.per_query, expected)
    assert score.value == pytest.approx(np.mean(expected))


def test_the_lds_of_scores_is_dattris() -> None:
    draw = np.random.default_rng(2)
    scores, true = draw.normal(size=(7, 12)), draw.normal(size=(30, 7))
    dropped = drop_subsets(12, 30, 6, seed=0)
    # dattri sums the scores of what is kept, which ranks subsets as minus those of what is dropped.
    kept = torch.from_numpy(np.array([np.flatnonzero(~row) for row in dropped]))
    expected, _ = dattri_lds(torch.tensor(scores.T), (torch.tensor(true), kept))
    np.testing.assert_allclose(lds(predicted_change(scores, dropped), true, resamples=2).per_query, expected)


def test_the_correlation_of_one_source_at_a_time_is_dattris() -> None:
    predicted, true = noisy()
    expected, _ = dattri_loo(torch.tensor(predicted), (torch.tensor(true), torch.arange(len(true))))
    found = pearson(predicted, true, resamples=2)
    np.testing.assert_allclose(found.per_query, expected)
    np.testing.assert_allclose(found.per_query, [pearsonr(predicted[:, q], true[:, q])[0] for q in range(20)])


@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_the_slope_is_that_of_a_line_through_the_origin(noise: float) -> None:
    predicted, _ = noisy()
    true = 0.5 * predicted + noise * np.random.default_rng(3).normal(size=predicted.shape)
    found = calibration_slope(predicted, true, resamples=300)
    line, *_ = np.linalg.lstsq(predicted.reshape(-1, 1), true.ravel())
    assert found.value == pytest.approx(line[0])
    assert found.low < 0.5 < found.high
    for query in range(3):
        line, *_ = np.linalg.lstsq(predicted[:, [query]], true[:, query])
        assert found.per_query[query] == pytest.approx(line[0])


def test_what_predicts_nothing_has_no_correlation_and_no_slope() -> None:
    _, true = noisy()
    nothing = np.zeros_like(true)
    assert calibration_slope(nothing, true, resamples=9).value == 0
    assert pearson(nothing + 0.1, true, resamples=9).high == 0  # 0.1 less its mean is rounding, not 0


def test_the_lds_by_number_ends_with_all_subsets_and_settles_on_the_way() -> None:
    predicted, true = noisy(noise=2.0)
    found = lds_by_number(predicted, true, most=6)
    assert [number for number, *_ in found] == sorted({number for number, *_ in found}) and found[0][0] == 3
    assert found[-1] == (30, *[pytest.approx(lds(predicted, true, resamples=2).value)] * 3)
    widths = [high - low for _, _, low, high in found]
    assert widths[0] > 2 * widths[-2] > 0
    assert all(low < mean < high for _, mean, low, high in found[:-1])


def test_perfect_and_reversed_predictions() -> None:
    _, true = noisy()
    perfect, reverse = lds(np.exp(true), true, resamples=50), lds(-true, true, resamples=50)
    assert (perfect.value, perfect.low, perfect.high) == pytest.approx((1, 1, 1))
    assert (reverse.value, reverse.low, reverse.high) == pytest.approx((-1, -1, -1))


@pytest.mark.parametrize("noise", [0.2, 1.0, 20.0])
def test_the_interval_contains_the_estimate_and_depends_on_the_seed_alone(noise: float) -> None:
    predicted, true = noisy(noise=noise)
    score = lds(predicted, true, resamples=300, seed=1)
    assert score.low < score.value < score.high
    assert str(score) == str(lds(predicted, true, resamples=300, seed=1))
    assert score.low != lds(predicted, true, resamples=300, seed=2).low


def test_more_subsets_and_queries_narrow_the_interval() -> None:
    few, many = (lds(*noisy(size, size), resamples=200) for size in (15, 60))
    assert many.high - many.low < 0.6 * (few.high - few.low)


def test_a_constant_prediction_is_worth_nothing() -> None:
    _, true = noisy()
    score = lds(np.zeros_like(true), true, resamples=20)
    assert (score.value, score.low, score.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("predicted", "true"),
    [
        (np.zeros((5, 3)), np.zeros((3, 5))),
        (np.zeros((2, 3)), np.zeros((2, 3))),
        (np.zeros((5, 0)), np.zeros((5, 0))),
        (np.full((5, 3), np.nan), np.zeros((5, 3))),
    ],
)
def test_what_has_no_score_is_refused(predicted: Floats, true: Floats) -> None:
    with pytest.raises(ValueError, match=r"need two arrays|must be finite"):
        lds(predicted, true)


def test_the_predicted_change_is_minus_the_scores_of_what_is_dropped() -> None:
    scores = np.array([[1.0, 2.0, 4.0], [-1.0, 0.5, 0.0]], np.float32)
    dropped = np.array([[True, False, True], [False, False, False]])
    np.testing.assert_allclose(predicted_change(scores, dropped), [[-5.0, 1.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    ("sources", "subsets", "dropped"), [(24, 40, 2), (24, 40, 12), (4, 6, 2), (3, 1, 3), (3, 1, 0)]
)
def test_subsets_are_distinct_and_of_the_right_size(sources: int, subsets: int, dropped: int) -> None:
    chosen = drop_subsets(sources, subsets, dropped, seed=5)
    assert chosen.shape == (subsets, sources)
    assert (chosen.sum(axis=1) == dropped).all()
    assert len({row.tobytes() for row in chosen}) == subsets
    np.testing.assert_array_equal(chosen, drop_subsets(sources, subsets, dropped, seed=5))


def test_every_source_is_dropped_as_likely() -> None:
    share = np.mean([drop_subsets(6, 5, 2, seed) for seed in range(300)], axis=(0, 1))
    np.testing.assert_allclose(share, 1 / 3, atol=0.06)


def test_more_subsets_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="no 7 different ways to drop 2 of 4 sources"):
        drop_subsets(4, 7, 2, seed=0)


def runs_of_one_effect(runs: int, noise: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Outputs (runs, subsets, queries) of runs that differ by noise of their own, and what they share."""
    draw = np.random.default_rng(seed)
    expected = draw.normal(size=(60, 80))
    return expected + noise * draw.normal(size=(runs, 60, 80)), expected


@pytest.mark.parametrize(("runs", "noise"), [(4, 0.5), (5, 2.0), (7, 1.0)])
def test_the_noise_ceiling_is_the_lds_of_what_the_runs_share(runs: int, noise: float) -> None:
    outputs, expected = runs_of_one_effect(runs, noise)
    best = lds(expected, outputs.mean(axis=0), resamples=2).value
    assert noise_ceiling(outputs) == pytest.approx(best, abs=0.015)


def test_the_noise_ceiling_of_runs_that_agree_and_of_runs_that_do_not() -> None:
    _, expected = runs_of_one_effect(4, 1.0)
    assert noise_ceiling(np.stack([expected] * 5)) == pytest.approx(1)
    noise = np.random.default_rng(1).normal(size=(6, 60, 80))
    assert noise_ceiling(noise) < 0.2
    assert noise_ceiling(np.stack([expected, -expected] * 2)) == 0


@pytest.mark.parametrize(
    "outputs", [np.zeros((3, 9, 9)), np.zeros((4, 9)), np.zeros((4, 9, 0)), np.full((4, 9, 9), np.nan)]
)
def test_outputs_without_a_ceiling_are_refused(outputs: Floats) -> None:
    with pytest.raises(ValueError, match=r"need outputs|must be finite"):
        noise_ceiling(outputs)
