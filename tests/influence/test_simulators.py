"""What both simulators can: begin in the middle of a run, stop and continue, take replicas on both sides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dist_attr.influence import Simulator, TrainState, TrajectorySimulator, make_simulator
from tests.runs import SOURCES, Run, small_run

METHODS: dict[str, dict[str, Any]] = {
    "trajectory": {"method": "trajectory"},
    "central": {"method": "trajectory", "central": True, "epsilon": 0.5},
    "tangent": {"method": "tangent"},
}
WEIGHTS = torch.ones(SOURCES, dtype=torch.float64)


def simulator(run: Run, start: TrainState, sources: list[int], **settings: Any) -> Simulator:
    return make_simulator(training_step=run.step, start=start, weights=WEIGHTS, sources=sources, **settings)


def advance(run: Run, simulated: Simulator, first: int, last: int) -> None:
    for number in range(first, last):
        simulated.advance(run.batches[number], number)


def state_after(run: Run, steps: int, weights: Tensor = WEIGHTS) -> TrainState:
    state = run.start
    for number in range(steps):
        state = run.step(state, weights, run.batches[number], number)
    return state


@pytest.mark.parametrize("method", METHODS)
def test_continued_from_a_snapshot_it_is_the_same_bit_for_bit(method: str) -> None:
    run = small_run()
    whole = simulator(run, run.start, [3, 1, 0], **METHODS[method])
    advance(run, whole, 0, 6)
    first = simulator(run, run.start, [3, 1, 0], **METHODS[method])
    advance(run, first, 0, 4)
    state, sources = first.snapshot()
    # Its sources divided over two others.
    for kept in ([0, 2], [1]):
        second = simulator(run, state, [[3, 1, 0][i] for i in kept], **METHODS[method], sources_per_pass=2)
        second.resume(state, [sources[i] for i in kept])
        advance(run, second, 4, 6)
        torch.testing.assert_close(second.tangents(), whole.tangents()[kept], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(second.parameters, whole.parameters, rtol=1e-12, atol=1e-14)
    same = simulator(run, state, [3, 1, 0], **METHODS[method])
    same.resume(state, sources)
    advance(run, same, 4, 6)
    assert torch.equal(same.tangents(), whole.tangents())
    assert torch.equal(same.parameters, whole.parameters)


@pytest.mark.parametrize("method", METHODS)
def test_a_window_knows_only_what_its_own_steps_did(method: str) -> None:
    run, first = small_run(), 3
    middle = state_after(run, first)
    windowed = simulator(run, middle, list(range(SOURCES)), **METHODS[method])
    advance(run, windowed, first, 6)
    torch.testing.assert_close(windowed.parameters, run.train(WEIGHTS), rtol=1e-10, atol=1e-12)

    def end(source: int, change: float) -> Tensor:
        weights, state = WEIGHTS.clone(), middle
        weights[source] += change
        for number in range(first, 6):
            state = run.step(state, weights, run.batches[number], number)
        return state.theta

    more, less, width = {"trajectory": (0, -1, 1), "central": (0.5, -0.5, 1), "tangent": (1e-5, -1e-5, 2e-5)}[method]
    for source in range(SOURCES):
        true = (end(source, more) - end(source, less)) / width
        torch.testing.assert_close(windowed.tangents()[source], true, rtol=1e-4, atol=1e-8)


def test_central_replicas_are_runs_with_more_and_less_weight() -> None:
    run = small_run()
    central = TrajectorySimulator(run.step, run.start, WEIGHTS, [2], epsilon=0.25, central=True)
    advance(run, central, 0, 6)
    for replica, change in zip(central.replicas, (-0.25, 0.25), strict=True):
        weights = WEIGHTS.clone()
        weights[2] += change
        torch.testing.assert_close(replica, run.train(weights), rtol=0, atol=1e-10)


@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
def test_the_error_of_central_replicas_is_of_second_order(optimizer: str) -> None:
    run = small_run(optimizer=optimizer)

    def tangents(**settings: Any) -> Tensor:
        simulated = simulator(run, run.start, list(range(SOURCES)), **settings)
        advance(run, simulated, 0, 6)
        return simulated.tangents()

    true = tangents(method="tangent")
    errors = {
        central: [
            float((tangents(method="trajectory", central=central, epsilon=epsilon) - true).norm())
            for epsilon in (1e-3, 1e-4)
        ]
        for central in (False, True)
    }
    assert errors[False][0] / errors[False][1] == pytest.approx(10, rel=0.05)
    assert errors[True][0] / errors[True][1] == pytest.approx(100, rel=0.1)
    assert errors[True][0] < 0.1 * errors[False][0]
