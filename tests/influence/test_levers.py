"""The levers: exact where they spare nothing, what they say where they do, and the laws hold under each of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_attr.influence import (
    Adam,
    Batch,
    LearningRate,
    Levers,
    ParameterSpace,
    Simulator,
    TrainingStep,
    make_simulator,
    module_forward,
)
from dist_attr.influence.forward_mode import push_forward
from dist_attr.influence.levers import source_gradients
from tests.runs import Run, small_run

STEPS, SOURCES = 6, 7
FIRST, LATE, NEVER = 0, 5, 6  # in the batch of step 0 alone, from step 4 on, in no batch
WEIGHTS = torch.linspace(0.5, 2, SOURCES, dtype=torch.float64)

TANGENT = {
    "horizon": Levers(horizon=2),
    "stride": Levers(stride=2),
    "share": Levers(curvature_share=0.5),
    "all": Levers(horizon=3, stride=2, curvature_share=0.34),
}
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"method": "tangent", "levers": levers} for name, levers in TANGENT.items()},
    "replicas": {"method": "trajectory", "levers": Levers(curvature_share=0.5)},
    "central": {"method": "trajectory", "central": True, "epsilon": 0.5, "levers": Levers(curvature_share=0.5)},
}


def in_rows(run: Run) -> Run:
    """The run with one source for each sequence, but for one that two sources share, and padding; no warm-up."""
    generator = torch.Generator().manual_seed(3)
    batches = []
    for number, batch in enumerate(run.batches):
        sources = torch.randint(1, LATE, (len(batch.inputs), 1), generator=generator).repeat(1, batch.sources.shape[1])
        sources[1, 5:] = 1 + number % 4
        sources[0] = FIRST if number == 0 else LATE if number >= 4 else 2
        batches.append(replace(batch, sources=torch.where(batch.sources < 0, -1, sources)))
    return replace(run, step=replace(run.step, rate=LearningRate(run.step.rate(2))), batches=batches)


def simulator(run: Run, sources: list[int] | None = None, method: str = "tangent", **settings: Any) -> Simulator:
    chosen = list(range(SOURCES)) if sources is None else sources
    return make_simulator(
        training_step=run.step, start=run.start, weights=WEIGHTS, sources=chosen, **{"method": method, **settings}
    )


def advance(run: Run, simulated: Simulator, first: int = 0, last: int = STEPS) -> Simulator:
    for number in range(first, last):
        simulated.advance(run.batches[number], number)
    return simulated


def tangents(run: Run, **settings: Any) -> Tensor:
    return advance(run, simulator(run, **settings)).tangents()


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


@pytest.mark.parametrize("mixed", [True, False])
def test_direct_terms_where_each_replica_is(mixed: bool) -> None:
    run = small_run() if mixed else in_rows(small_run())
    batch, sources = run.batches[0], [2, NEVER, 2, 3]
    thetas = run.theta + some_moves(run, 4)
    direct = source_gradients(run.step, thetas, batch, sources)
    for row, source in enumerate(sources):
        true = run.step.gradient(thetas[row], torch.eye(SOURCES, dtype=torch.float64)[source], batch)
        torch.testing.assert_close(direct[row], true, rtol=1e-10, atol=1e-12)


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


def small_network() -> Run:
    """A network on vectors, one source for each: batches without a second dimension."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5)).double()
    space = ParameterSpace.of(network)
    batches = [
        Batch(
            torch.randn(8, 3, dtype=torch.float64, generator=generator),
            torch.randint(0, 5, (8,), generator=generator),
            torch.randint(0, SOURCES, (8,), generator=generator),
        )
        for _ in range(STEPS)
    ]
    step = TrainingStep(module_forward(network), space, Adam(eps_root=1e-6), LearningRate(0.02), clipping=0.3)
    return Run(network, step, space.read(network), batches)


def plainly(run: Run, source: int, levers: Levers) -> Tensor:
    """One source's tangent in so many words: loss, clipping and Adam written out, one product for each part."""

    def losses(theta: Tensor, batch: Batch) -> Tensor:
        into, bias, out, last = theta.split([12, 4, 20, 5])
        hidden = torch.tanh(batch.inputs @ into.view(4, 3).T + bias)
        logits = hidden @ out.view(5, 4).T + last
        return nn.functional.cross_entropy(logits, batch.targets, reduction="none")

    theta, first, second = run.theta, torch.zeros_like(run.theta), torch.zeros_like(run.theta)
    moved, turn, last_seen = [torch.zeros_like(run.theta)] * 3, 0, -100
    for t, batch in enumerate(run.batches):
        size = round(levers.curvature_share * len(batch.targets))
        rows = [(turn * size + i) % len(batch.targets) for i in range(size)]
        weights, here = WEIGHTS[batch.sources], (batch.sources == source).double()

        def gradient(theta: Tensor, batch: Batch = batch, weights: Tensor = weights) -> Any:
            return torch.func.grad(lambda theta: (weights * losses(theta, batch)).mean())(theta)

        def of_rows(theta: Tensor, batch: Batch = batch, weights: Tensor = weights, rows: list[int] = rows) -> Any:
            return torch.func.grad(lambda theta: (weights * losses(theta, batch))[rows].mean())(theta)

        def direct(theta: Tensor, batch: Batch = batch, here: Tensor = here) -> Any:
            return torch.func.grad(lambda theta: (here * losses(theta, batch)).mean())(theta)

        def adam(theta: Tensor, first: Tensor, second: Tensor, gradient: Tensor, t: int = t) -> Any:
            gradient = gradient * (0.3 / (gradient.square().sum().sqrt() + 1e-6)).clamp(max=1)
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            root = (second / (1 - 0.999 ** (t + 1)) + 1e-6).sqrt() + 1e-8
            return theta - 0.02 * first / (1 - 0.9 ** (t + 1)) / root, first, second

        change = direct(theta)
        if t % levers.stride == levers.stride - 1:
            change = change + levers.stride * torch.func.jvp(of_rows, (theta,), (moved[0],))[1]
            turn += 1
        last_seen = t if here.any() else last_seen
        at = (theta, first, second, gradient(theta))
        if levers.horizon is None or t - last_seen < levers.horizon:
            moved = list(torch.func.jvp(adam, at, (*moved, change))[1])
        theta, first, second = adam(*at)
    return moved[0]


@pytest.mark.parametrize("levers", [Levers(), *TANGENT.values()])
def test_tangents_equal_a_plain_loop(levers: Levers) -> None:
    run = small_network()
    simulated = tangents(run, levers=levers)
    for source in range(SOURCES):
        torch.testing.assert_close(simulated[source], plainly(run, source, levers), rtol=1e-9, atol=1e-12)


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
