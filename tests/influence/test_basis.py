"""The readout basis: exact where it spans, honest about what it leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dist_attr.influence import ReadoutBasis, Sequences, directional_logprobs
from tests.runs import LENGTH, VOCABULARY, small_run

SOURCES = 40


def scores(queries: int, rank: int, noise: float, seed: int) -> list[Tensor]:
    """Token scores (5, SOURCES) of queries that vary in a few directions of their own, and a little in all others."""
    mixing = torch.randn(rank, SOURCES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(5, rank, generator=draw, dtype=torch.float64) @ mixing
        + noise * torch.randn(5, SOURCES, generator=draw, dtype=torch.float64)
        for _ in range(queries)
    ]


def test_scores_in_the_span_are_exact() -> None:
    basis = ReadoutBasis.fit(scores(60, rank=6, noise=0.0, seed=1), energy=0.999999)
    assert basis.rank == 6
    new = scores(1, rank=6, noise=0.0, seed=2)[0].sum(0)
    torch.testing.assert_close(basis.of_sources(basis.mixing @ new), new)
    assert basis.residual[-1].max() < 1e-10 and basis.token_residual[-1].max() < 1e-10
    assert basis.energy > 0.999999


def test_its_rows_are_orthonormal() -> None:
    mixing = ReadoutBasis.fit(scores(60, 6, 0.1, seed=1), rank=9).mixing
    torch.testing.assert_close(mixing @ mixing.T, torch.eye(9, dtype=torch.float64))


def test_the_error_bar_is_what_new_queries_miss() -> None:
    basis = ReadoutBasis.fit(scores(400, 6, 0.3, seed=1), rank=6)
    for rank in (5, 6):  # the first directions are a basis too
        ratios, of_tokens = [], []
        for query in scores(400, 6, 0.3, seed=2):
            along = basis.mixing[:rank] @ query.T
            of_tokens.append((basis.of_sources(along) - query.T) / basis.token_error(along))
            along = along.sum(1)
            ratios.append((basis.of_sources(along) - query.sum(0)) / basis.error(along))
        # Their square is 1 in the mean: over all sources, and of each where both halves find the same directions.
        for found in (torch.stack(ratios), torch.cat(of_tokens, dim=1).T):
            spread = found.square().mean(0)
            assert 0.7 < spread.mean() < 1.4
            assert rank < 6 or ((spread > 0.64) & (spread < 1.6)).all()


@pytest.mark.parametrize(("energy", "least", "most"), [(0.5, 1, 4), (0.9, 4, 6), (0.9999, 30, 40)])
def test_energy_chooses_the_rank(energy: float, least: int, most: int) -> None:
    assert least <= ReadoutBasis.fit(scores(200, 6, 0.1, seed=1), energy=energy).rank <= most


def test_all_directions_leave_nothing_out() -> None:
    run = small_run()
    tokens = torch.randint(0, VOCABULARY, (8, LENGTH), generator=torch.Generator().manual_seed(3))
    tangents = torch.randn(5, run.step.space.size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    at = Sequences(run.step.forward, run.step.space, run.theta, tokens)
    exact = directional_logprobs(at, [tangents]).scores
    basis = ReadoutBasis.fit([exact[:, i].T for i in range(8)], rank=5)
    along = directional_logprobs(at, [basis.mixing @ tangents]).scores
    torch.testing.assert_close(basis.of_sources(along), exact)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 calibration queries, there are 3"):
        ReadoutBasis.fit(scores(3, 2, 0.0, seed=1), rank=2)
    with pytest.raises(ValueError, match="either a rank or an energy"):
        ReadoutBasis.fit(scores(9, 2, 0.0, seed=1))
