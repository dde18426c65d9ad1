"""Agreement of two score matrices, on scores whose agreement is known."""

from __future__ import annotations

import math
import os
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy import stats

from dist_attr.probing import Agreement, agreement
from dist_attr.probing.intervals import interval
from dist_attr.probing.ranks import overlap_p, partial_spearman, spearman, top_overlap

Floats = NDArray[np.float64]
RELEASED = "data/icp_alpaca_reference.npz"
SHARED = os.environ.get("DIST_ATTR_SHARED", str(Path(__file__).parents[3] / "shared"))


def copula(rho: float, queries: int, sources: int, seed: int) -> tuple[Floats, Floats]:
    """Two matrices with correlation rho, one of them bent so that only its ranks are as they were."""
    first, noise = np.random.default_rng(seed).standard_normal((2, queries, sources))
    return first, np.exp(rho * first + math.sqrt(1 - rho**2) * noise) - 1


def interval_of_mean(values: Floats) -> tuple[float, float]:
    found = interval(lambda drawn: values[drawn].mean(axis=-1), len(values), 0, seed=0)
    assert found is not None
    return found


def numbers_of(value: Any) -> list[float]:
    """All numbers in a result."""
    if isinstance(value, BaseModel):
        return [n for name in type(value).model_fields for n in numbers_of(getattr(value, name))]
    if isinstance(value, dict):
        return [n for inner in value.values() for n in numbers_of(inner)]
    if isinstance(value, tuple):
        return [n for inner in value for n in numbers_of(inner)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.0, 0.5, 0.95])
def test_a_gaussian_copula_has_its_rank_correlations(rho: float) -> None:
    found = agreement(*copula(rho, 60, 200, seed=1)).overall
    for estimate, true in (
        (found.spearman, 6 / math.pi * math.asin(rho / 2)),
        (found.kendall, 2 / math.pi * math.asin(rho)),
    ):
        assert estimate.value is not None and estimate.interval is not None and estimate.queries == 60
        error = (estimate.interval[1] - estimate.interval[0]) / 3.92
        assert 0 < error < 0.02 and abs(estimate.value - true) < 4 * error + 0.005  # few sources bias it a little


def test_each_query_as_scipy_has_it() -> None:
    generator = np.random.default_rng(2)
    first, second = generator.integers(5, size=(2, 30, 9)).astype(float)  # with ties
    found = agreement(first, second, ks=(2,))
    for a, b, query in zip(first, second, found.per_query, strict=True):
        assert query.spearman == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
        assert query.kendall == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)
    assert found.overall.spearman.value == pytest.approx(np.mean([query.spearman for query in found.per_query]))


def test_partial_correlation_as_other_formulas_have_it() -> None:
    generator = np.random.default_rng(3)
    first, second, third, fourth = generator.standard_normal((4, 25, 12))
    second, third, fourth = second + 0.5 * first, third + first + second, np.round(fourth + second)
    found = agreement(first, second, covariates={"bm25": third, "tokens": fourth})
    for i, query in enumerate(found.per_query):
        ranks = stats.rankdata([first[i], second[i], third[i], fourth[i]], axis=1)
        r = np.corrcoef(ranks)
        closed = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
        precision = np.linalg.inv(r)
        both = -precision[0, 1] / math.sqrt(precision[0, 0] * precision[1, 1])
        assert query.partial["bm25"] == pytest.approx(closed, abs=1e-10)
        assert query.partial["bm25 + tokens"] == pytest.approx(both, abs=1e-10)
    baseline = found.overall.baselines["bm25"]
    for estimate, rows in ((baseline.influence, first), (baseline.probing, second)):
        expected = np.mean([stats.spearmanr(a, b).statistic for a, b in zip(rows, third, strict=True)])
        assert estimate.value == pytest.approx(expected)


def test_what_agrees_through_the_covariate_alone_agrees_no_more() -> None:
    length, a, b = np.random.default_rng(4).standard_normal((3, 40, 300))
    found = agreement(length + a, length + b, covariates={"tokens": length, "other": a[::-1]}).overall
    through, left = (6 / math.pi * math.asin(rho / 2) for rho in (0.5, math.sqrt(0.5)))
    known = (through - left**2) / (1 - left**2)  # of ranks it is not quite 0
    assert found.spearman.value == pytest.approx(through, abs=0.02)
    assert found.partial["tokens"].value == pytest.approx(known, abs=0.02) and known < 0.02
    assert found.partial["other"].value == pytest.approx(through, abs=0.02)
    assert found.baselines["tokens"].influence.value == pytest.approx(left, abs=0.02)


def test_a_control_that_says_nothing_changes_nothing() -> None:
    first, second = copula(0.4, 10, 8, seed=5)
    same, varied = np.ones((10, 8)), np.random.default_rng(5).standard_normal((10, 8))
    plain = agreement(first, second, covariates={"tokens": same, "bm25": varied, "again": 2 * varied})
    for query in plain.per_query:
        assert query.partial["tokens"] == pytest.approx(query.spearman, abs=1e-10)
        assert query.partial["tokens + bm25 + again"] == pytest.approx(query.partial["bm25"], abs=1e-10)
    assert plain.overall.baselines["tokens"].influence.undefined == 10


def test_a_control_that_says_everything_leaves_nothing() -> None:
    first, second = copula(0.4, 3, 8, seed=6)
    assert np.isnan(partial_spearman(first, second, np.exp(first)[:, None])).all()
    assert np.isnan(partial_spearman(first[:, :3], second[:, :3], second[:, None, :3][:, :, ::-1])).all()  # 3 sources
    found = agreement(first, second, covariates={"copy": first}).overall
    assert found.partial["copy"].value is None and found.partial["copy"].undefined == 3


def test_unrelated_tops_overlap_by_chance() -> None:
    generator = np.random.default_rng(7)
    found = agreement(*generator.standard_normal((2, 4000, 20)), ks=(1, 3, 0.25, 20, 50))
    assert [overlap.k for overlap in found.overall.overlaps] == [1, 3, 5]
    for number, overlap in enumerate(found.overall.overlaps):
        assert overlap.overlap.value is not None and overlap.overlap.interval is not None
        error = (overlap.overlap.interval[1] - overlap.overlap.interval[0]) / 3.92
        assert abs(overlap.overlap.value - overlap.chance) < 4 * error < 0.02
        p = np.array([query.overlaps[number].p for query in found.per_query])
        for level in (0.05, 0.2):  # seldom by chance, as a p-value must be
            assert (p <= level).mean() < level + 0.02


def test_p_values_of_tops_as_counted_out() -> None:
    sources, k = 6, 2
    shared = [len({0, 1} & set(order[:k])) for order in permutations(range(sources))]
    for overlap in range(k + 1):
        expected = np.mean([other >= overlap for other in shared])
        assert overlap_p(np.array(overlap / k), k, sources) == pytest.approx(expected)


def test_ties_at_the_edge_count_by_their_share() -> None:
    first, second = np.array([5.0, 3, 3, 3, 1]), np.array([2.0, 2, 7, 2, 2])
    orders = [np.array(order) / 100 for order in permutations(range(5))]
    for k in (1, 2, 3, 4):
        one, other = ([set(np.argsort(-(row + order))[:k]) for order in orders] for row in (first, second))
        # Ties broken in every way, on both sides.
        expected = np.mean([len(a & b) / k for a, b in product(one, other)])
        assert top_overlap(first, second, k) == pytest.approx(expected)


def test_a_query_without_a_ranking_is_left_out_and_counted() -> None:
    first, second = copula(0.5, 12, 6, seed=8)
    second[[2, 7]], first[7] = 0.25, -1
    found, rest = (agreement(*pair, ks=(1,)) for pair in ((first, second), np.delete([first, second], [2, 7], axis=1)))
    for query in (found.per_query[2], found.per_query[7]):
        assert query.spearman is None and query.kendall is None
        assert query.overlaps[0].overlap is None and query.overlaps[0].p is None
    for with_them, without in (
        (found.overall.spearman, rest.overall.spearman),
        (found.overall.kendall, rest.overall.kendall),
        (found.overall.overlaps[0].overlap, rest.overall.overlaps[0].overlap),
    ):
        assert with_them == without.model_copy(update={"undefined": 2}) and with_them.queries == 10
    nothing = agreement(first, np.zeros_like(first)).overall
    assert nothing.spearman.value is None and nothing.spearman.undefined == 12
    assert nothing.mean.spearman.value is None and nothing.golden.spearman.value is None


def test_intervals_cover_what_they_say() -> None:
    true = spearman(*copula(0.5, 50_000, 8, seed=9)).mean()
    covered = []
    for number in range(300):
        low, high = interval_of_mean(spearman(*copula(0.5, 20, 8, seed=100 + number)))
        covered.append(low <= true <= high)
    assert 0.89 <= np.mean(covered) <= 0.98


def test_what_resamples_cannot_tell_has_no_interval() -> None:
    order = np.arange(6.0)
    alike = agreement(np.tile(order, (10, 1)), np.tile(order**3, (10, 1))).overall
    assert alike.spearman.value == 1 and alike.spearman.interval is None and alike.mean.spearman.interval is None
    few = agreement(*copula(0.5, 7, 6, seed=15)).overall
    assert few.spearman.interval is None and few.mean.spearman.interval is None
    enough = agreement(*copula(0.5, 8, 6, seed=15)).overall
    assert enough.spearman.interval is not None and enough.mean.spearman.interval is not None


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of scipy, where it has no correction
def test_where_the_correction_is_not_defined_the_percentiles_are_taken() -> None:
    def distinct(drawn: NDArray[np.int64]) -> Floats:
        """Share of different queries: 1 of all of them, and less of any resample."""
        return np.array([len(set(row)) / len(row) for row in drawn.tolist()])

    with pytest.warns(stats.DegenerateDataWarning):
        plain = stats.bootstrap(
            (np.arange(30),),
            lambda drawn, axis: np.apply_along_axis(lambda row: distinct(row[None])[0], axis, drawn),
            n_resamples=200,
            rng=0,
        )
    assert np.isnan(plain.confidence_interval.low)
    low, high = interval(distinct, 30, 0, seed=0) or (1, 0)
    assert 0.45 < low < 1 - 1 / np.e < high < 0.8


def test_where_the_correction_leaves_the_figure_out_the_percentiles_are_taken() -> None:
    values = np.random.default_rng(0).standard_normal(30)

    def penalised(drawn: NDArray[np.int64]) -> Floats:
        """A mean that a resample's repetitions make less, so that nearly all lie below that of all queries."""
        repeated = np.array([1 - len(set(row)) / len(row) for row in drawn.tolist()])
        return np.asarray(values[drawn].mean(axis=-1) - 1.2 * repeated)

    whole = values.mean()
    plain = stats.bootstrap(
        (np.arange(30),), lambda drawn, axis: penalised(np.atleast_2d(drawn)), n_resamples=2000, rng=0
    )
    assert whole < plain.confidence_interval.low, "the corrected interval lies above the figure"
    low, high = interval(penalised, 30, 0, seed=0) or (1, 0)
    drawn = plain.bootstrap_distribution
    np.testing.assert_allclose([low, high], np.percentile(drawn, [2.5, 97.5]), atol=0.02)
    assert low < drawn.mean() < high < whole


def test_the_interval_of_an_aggregated_ranking() -> None:
    sources = np.arange(12) / 4.0
    first, second = np.random.default_rng(10).standard_normal((2, 40, 12)) + sources
    found = agreement(first, second).overall
    assert found.mean.spearman.value == pytest.approx(stats.spearmanr(first.mean(0), second.mean(0)).statistic)
    assert found.mean.kendall == pytest.approx(stats.kendalltau(first.mean(0), second.mean(0)).statistic)
    low, high = found.mean.spearman.interval or (1, 1)
    assert found.mean.spearman.value is not None
    assert 0.5 < low < found.mean.spearman.value < high <= 1  # the true rankings agree
    assert found.spearman.value is not None and found.spearman.value < found.mean.spearman.value  # noise averages out


def test_the_golden_score_is_the_share_of_queries_whose_likelihood_rises() -> None:
    first, second = copula(0.5, 30, 9, seed=11)
    second += np.linspace(-1, 1, 9)
    found = agreement(first, second, covariates={"tokens": np.arange(9.0)}).overall
    golden = (second > 0).mean(axis=0)
    assert found.golden.spearman.value == pytest.approx(stats.spearmanr(first.mean(0), golden).statistic)
    expected = partial_spearman(first.mean(0), golden, np.arange(9.0)[None])
    assert found.golden.partial["tokens"].value == pytest.approx(float(expected))
    assert found.golden.spearman != found.mean.spearman


def test_groups_are_what_their_queries_alone_would_be() -> None:
    first, second = copula(0.5, 30, 6, seed=12)
    first[20:] *= -1
    labels = ["in-domain"] * 12 + [None] * 8 + ["out-of-domain"] * 10
    lengths = np.random.default_rng(12).uniform(size=(30, 6))
    found = agreement(first, second, groups=labels, covariates={"tokens": lengths})
    assert [(cohort.group, cohort.queries) for cohort in found.groups] == [("in-domain", 12), ("out-of-domain", 10)]
    assert (found.overall.group, found.overall.queries) == (None, 30)
    assert [query.group for query in found.per_query] == labels
    for cohort, which in zip(found.groups, (slice(0, 12), slice(20, 30)), strict=True):
        alone = agreement(first[which], second[which], covariates={"tokens": lengths[which]}).overall
        assert cohort == alone.model_copy(update={"group": cohort.group})
    inside, outside = (cohort.spearman.value for cohort in found.groups)
    assert inside is not None and outside is not None and inside > 0.2 and outside < -0.2


def test_the_order_of_sources_and_queries_changes_nothing() -> None:
    generator = np.random.default_rng(13)
    first, second, lengths = generator.integers(4, size=(3, 10, 9)) - 1.5
    queries, sources = generator.permutation(10), generator.permutation(9)
    found = agreement(first, second, covariates={"tokens": lengths})
    again = agreement(
        *(m[queries][:, sources] for m in (first, second)), covariates={"tokens": lengths[queries][:, sources]}
    )
    for number, place in enumerate(queries):
        theirs, ours = numbers_of(again.per_query[number]), numbers_of(found.per_query[place])
        assert theirs == pytest.approx(ours, abs=1e-12)
    assert again.overall.spearman.value == pytest.approx(found.overall.spearman.value)


def test_one_query_of_two_sources() -> None:
    found = agreement(np.array([[1.0, 2.0]]), np.array([[0.1, 0.3]]), covariates={"tokens": np.array([3, 5])})
    assert found.overall.spearman.value == 1 and found.overall.spearman.interval is None
    assert found.per_query[0].partial["tokens"] is None
    assert [overlap.k for overlap in found.per_query[0].overlaps] == [1]
    assert Agreement.model_validate_json(found.model_dump_json()) == found


def test_the_seed_is_all_the_chance_there_is() -> None:
    first, second = copula(0.5, 20, 6, seed=14)
    assert agreement(first, second, seed=1) == agreement(first, second, seed=1)
    one, other = agreement(first, second, seed=1).overall, agreement(first, second, seed=2).overall
    assert one.spearman.value == other.spearman.value and one.spearman.interval != other.spearman.interval


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"probing": np.zeros((3, 4))}, r"probing has the shape \(3, 4\), influence \(3, 5\)"),
        ({"influence": np.zeros((3, 1)), "probing": np.zeros((3, 1))}, "two sources or more"),
        ({"influence": np.zeros((0, 5)), "probing": np.zeros((0, 5))}, "must be"),
        ({"influence": np.full((3, 5), np.nan)}, "influence holds a number that is not finite"),
        ({"covariates": {"tokens": np.zeros(4)}}, "tokens has the shape"),
        ({"groups": ["a"]}, "1 group labels for 3 queries"),
        ({"ks": (0,)}, "must be positive"),
    ],
)
def test_what_cannot_be_compared_is_refused(changed: dict[str, Any], message: str) -> None:
    arguments = {"influence": np.zeros((3, 5)), "probing": np.zeros((3, 5)), **changed}
    with pytest.raises(ValueError, match=message):
        agreement(**arguments)


@pytest.mark.skipif(
    not Path(SHARED, RELEASED).exists(), reason=f"needs shared/{RELEASED}; DIST_ATTR_SHARED names shared/"
)
def test_the_scores_that_the_authors_released() -> None:
    """Spearman 0.729, and next to nothing of the top 1 %: 0.02 to 0.04, as the 433 documents tied at its edge fall."""
    released = np.load(Path(SHARED, RELEASED))
    influence, golden = released["influence_mean"][None], released["icp"][None]
    query = agreement(influence, golden, ks=(0.01,)).per_query[0]
    assert query.spearman == pytest.approx(0.7292, abs=5e-5)
    top = query.overlaps[0]
    assert top.k == 520 and top.chance == pytest.approx(0.01, rel=1e-3)
    assert top.overlap is not None and 0.019 < top.overlap < 0.045
    order = np.argsort(-influence[0])[:520]
    edge = np.sort(golden[0])[-520]
    sure, maybe = (golden[0][order] > edge).sum(), (golden[0][order] == edge).sum()
    room = 520 - (golden[0] > edge).sum()
    assert top.overlap == pytest.approx((sure + maybe * room / (golden[0] == edge).sum()) / 520)
