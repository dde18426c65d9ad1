"""The levers: exact where they spare nothing, what they say where they do, and the laws hold under each of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_attr.influence import Batch, Levers
from dist_attr.influence.forward_mode import push_forward
from dist_attr.influence.levers import source_gradients
from tests.influence.lever_runs import (
    FIRST,
    LATE,
    NEVER,
    SETTINGS,
    SOURCES,
    STEPS,
    TANGENT,
    WEIGHTS,
    advance,
    in_rows,
    simulator,
    tangents,
)
from tests.runs import Run, small_run


@pytest.mark.parametrize("levers", [Levers(), Levers(horizon=STEPS), Levers(stride=1), Levers(curvature_share=1.0)])
def test_levers_that_spare_nothing_change_no_bit(levers: Levers) -> None:
    run = in_rows(small_run())
    assert torch.equal(tangents(run, levers=levers), tangents(run))


@pytest.mark.parametrize("settings", [{}, {"central": True, "epsilon": 0.5}])
def test_all_rows_for_the_curvature_change_no_bit_of_the_replicas(settings: dict[str, Any]) -> None:
    run = in_rows(small_run())
    replicas = tangents(run, method="trajectory", levers=Levers(curvature_share=1.0), **settings)
    assert torch.equal(replicas, tangents(run, method="trajectory", **settings))


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_sources_that_wait_for_their_first_batch_lose_nothing(optimizer: str) -> None:
    # All of them derived at every step, as if they had been seen.
    run = in_rows(small_run(optimizer=optimizer))
    state = run.start
    tangent, directions = state.zeros(SOURCES), torch.eye(SOURCES, dtype=torch.float64)
    for number, batch in enumerate(run.batches):
        state, tangent = push_forward(
            lambda state, weights, batch=batch, number=number: run.step(state, weights, batch, number),
            (state, WEIGHTS),
            (tangent, directions),
        )
    simulated = advance(run, simulator(run))
    torch.testing.assert_close(simulated.tangents(), tangent.theta, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(simulated.parameters, state.theta, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("levers", [Levers(), *TANGENT.values()])
def test_a_source_in_no_batch_has_no_tangent(levers: Levers) -> None:
    simulated = tangents(in_rows(small_run()), levers=levers)
    assert not simulated[NEVER].any()
    assert simulated[[FIRST, LATE]].any(dim=1).all()


def test_only_active_sources_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    run, computed = in_rows(small_run()), []

    def counted(*arguments: Any) -> Any:
        computed.append(len(arguments[2][0]))
        return push_forward(*arguments)

    monkeypatch.setattr("dist_attr.influence.tangent.push_forward", counted)
    simulated = simulator(run, levers=Levers(horizon=1), sources_per_pass=SOURCES)
    for number, batch in enumerate(run.batches):
        computed.clear()
        simulated.advance(batch, number)
        assert set(computed[:1]) == {len(batch.present)}


@pytest.mark.parametrize("mixed", [True, False])
def test_direct_term_and_curvature_add_up_to_the_derivative(mixed: bool) -> None:
    run = small_run() if mixed else in_rows(small_run())
    batch, sources = run.batches[0], [2, NEVER, 0, 3]
    moves = some_moves(run, 4)

    def gradient(theta: Tensor, weights: Tensor) -> Tensor:
        return run.step.gradient(theta, weights, batch)

    directions = torch.eye(SOURCES, dtype=torch.float64)[sources]
    _, whole = push_forward(gradient, (run.theta, WEIGHTS), (moves, directions))
    _, curvature = push_forward(lambda theta: gradient(theta, WEIGHTS), (run.theta,), (moves,))
    direct = source_gradients(run.step, run.theta, batch, sources)
    assert not direct[1].any()
    torch.testing.assert_close(direct + curvature, whole, rtol=1e-10, atol=1e-12)


def some_moves(run: Run, number: int) -> Tensor:
    return 0.1 * torch.randn(number, len(run.theta), dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["tangent", "trajectory"])
def test_the_whole_run_by_parts_equals_the_whole_run_at_once(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = in_rows(small_run())
    exact = tangents(run, method=method)
    # All rows, but as another batch: computed as a share is.
    monkeypatch.setattr(Levers, "curvature_batch", lambda _, batch, step: replace(batch))
    by_parts = tangents(run, method=method)
    assert not torch.equal(by_parts, exact)
    torch.testing.assert_close(by_parts, exact, rtol=1e-9, atol=1e-10)


def test_horizon_one_freezes_a_source_after_its_own_step() -> None:
    run = in_rows(small_run())
    after_one = advance(run, simulator(run), 0, 1).tangents()[FIRST].clone()
    simulated = advance(run, simulator(run, levers=Levers(horizon=1)))
    assert after_one.any()
    assert torch.equal(simulated.tangents()[FIRST], after_one)
    assert not torch.equal(tangents(run)[FIRST], after_one)


@pytest.mark.parametrize("settings", SETTINGS)
def test_levers_move_the_result_but_not_the_run(settings: str) -> None:
    run = in_rows(small_run())
    exact = advance(run, simulator(run, **{**SETTINGS[settings], "levers": Levers()}))
    cheaper = advance(run, simulator(run, **SETTINGS[settings]))
    torch.testing.assert_close(cheaper.parameters, exact.parameters, rtol=1e-11, atol=1e-13)
    assert not torch.allclose(cheaper.tangents(), exact.tangents(), rtol=1e-3)


@pytest.mark.parametrize("method", ["tangent", "trajectory"])
def test_a_greater_share_and_smaller_steps_come_nearer_to_exact(method: str) -> None:
    def error(rate: float, share: float) -> float:
        run = in_rows(small_run(optimizer="sgd", clipping=0.0))
        run = replace(run, step=replace(run.step, rate=lambda _: rate))
        exact = tangents(run, method=method)
        return float((tangents(run, method=method, levers=Levers(curvature_share=share)) - exact).norm() / exact.norm())

    assert error(0.5, 1 / 6) > 2 * error(0.5, 5 / 6) > 0
    # The direct term is exact, and what the curvature adds to it is of the order of the steps' size.
    assert error(0.005, 0.5) < 0.05 * error(0.5, 0.5)


@pytest.mark.parametrize("settings", SETTINGS)
def test_sources_divided_in_any_way_give_the_same(settings: str) -> None:
    run = in_rows(small_run())
    together = tangents(run, **SETTINGS[settings])
    for per_pass in (1, 3, 64):
        divided = tangents(run, **SETTINGS[settings], sources_per_pass=per_pass)
        torch.testing.assert_close(divided, together, rtol=0, atol=1e-10)
    for shard in ([5, 0, 3], [1], [2, 4, 6], []):
        some = tangents(run, sources=shard, **SETTINGS[settings])
        torch.testing.assert_close(some, together[shard], rtol=0, atol=1e-10)


@pytest.mark.parametrize("settings", SETTINGS)
def test_continued_from_a_snapshot_it_is_the_same_bit_for_bit(settings: str) -> None:
    run, sources = in_rows(small_run()), [3, 0, 5, 2]
    whole = advance(run, simulator(run, sources, **SETTINGS[settings], sources_per_pass=3))
    for stop in range(1, STEPS):
        first = advance(run, simulator(run, sources, **SETTINGS[settings], sources_per_pass=3), 0, stop)
        second = simulator(run, sources, **SETTINGS[settings], sources_per_pass=3)
        second.resume(*first.snapshot())
        advance(run, second, stop)
        assert torch.equal(second.tangents(), whole.tangents())
        assert torch.equal(second.parameters, whole.parameters)


def test_curvature_comes_from_every_row_in_turn() -> None:
    batch = Batch(torch.arange(8), torch.zeros(8, dtype=torch.long), torch.zeros(8, dtype=torch.long))
    for levers in (Levers(curvature_share=0.25), Levers(curvature_share=0.25, stride=2)):
        steps = [step for step in range(8) if levers.strength(step)][:4]
        rows = [levers.curvature_batch(batch, step).inputs.tolist() for step in steps]
        assert rows == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("method", ["tangent", "trajectory"])
def test_rows_of_padding_alone_have_no_curvature(method: str) -> None:
    run = in_rows(small_run())
    batches = [replace(batch, sources=batch.sources.clone()) for batch in run.batches]
    batches[2].sources[2] = -1  # the row that step 2 takes its curvature from
    simulated = tangents(replace(run, batches=batches), method=method, levers=Levers(curvature_share=1 / 6))
    assert simulated.isfinite().all()
    assert simulated[[1, 2, 3, 4]].any(dim=1).all()


@pytest.mark.parametrize("levers", [Levers(horizon=2), Levers(stride=2)])
def test_replicas_refuse_the_levers_of_tangents(levers: Levers) -> None:
    with pytest.raises(ValueError, match="tangent simulator"):
        simulator(small_run(), method="trajectory", levers=levers)
