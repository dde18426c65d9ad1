"""Law 1: the tangent is the derivative of the whole run, the trajectory is the retraining."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dist_attr.influence import TangentSimulator, TrajectorySimulator
from tests.runs import DECAYS, MODELS, OPTIMIZERS, RATES, SOURCES, Run, small_run


def weights_with(source: int, change: float, dtype: torch.dtype = torch.float64) -> Tensor:
    weights = torch.ones(SOURCES, dtype=dtype)
    weights[source] += change
    return weights


def tangents(run: Run) -> Tensor:
    simulator = TangentSimulator(run.step, run.start, torch.ones(SOURCES, dtype=run.theta.dtype), range(SOURCES))
    for number, batch in enumerate(run.batches):
        simulator.advance(batch, number)
    return simulator.tangents()


def central_difference(run: Run, source: int, h: float = 1e-4) -> Tensor:
    """Of the whole run, extrapolated from two widths (Richardson), so that no error of order h² is left."""

    def difference(h: float) -> Tensor:
        return (run.train(weights_with(source, h)) - run.train(weights_with(source, -h))) / (2 * h)

    return (4 * difference(h / 2) - difference(h)) / 3


@pytest.mark.usefixtures("float64_inside")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tangent_equals_the_central_difference_of_the_run(model: str, optimizer: str) -> None:
    run = small_run(model, optimizer)
    simulated = tangents(run)
    for source in range(SOURCES):
        true = central_difference(run, source)
        assert (simulated[source] - true).norm() <= 1e-6 * true.norm()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tangent_in_float32(optimizer: str) -> None:
    true = tangents(small_run("gpt2", optimizer))
    simulated = tangents(small_run("gpt2", optimizer, dtype=torch.float32)).double()
    assert ((simulated - true).norm(dim=1) <= 1e-3 * true.norm(dim=1)).all()


def test_clipping_is_active_and_matters() -> None:
    clipped, free = small_run(clipping=0.5), small_run(clipping=0.0)
    assert (tangents(clipped) - tangents(free)).norm() > 0.01 * tangents(free).norm()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("epsilon", [1.0, 0.25])
def test_trajectory_equals_a_separate_run_with_that_weight(model: str, optimizer: str, epsilon: float) -> None:
    run = small_run(model, optimizer)
    simulator = TrajectorySimulator(
        run.step, run.start, torch.ones(SOURCES, dtype=torch.float64), [2, 0], epsilon=epsilon
    )
    for number, batch in enumerate(run.batches):
        simulator.advance(batch, number)
    base = run.train(torch.ones(SOURCES, dtype=torch.float64))
    for row, source in enumerate([2, 0]):
        separate = run.train(weights_with(source, -epsilon))
        torch.testing.assert_close(simulator.replicas[row], separate, rtol=0, atol=1e-10)
        torch.testing.assert_close(simulator.tangents()[row], (base - separate) / epsilon, rtol=0, atol=1e-10)


TRAINED: dict[str, dict[str, Any]] = {
    "adapters": {"lora": {"rank": 2, "alpha": 8}},
    "adapters of one layer": {"lora": {"rank": 2, "targets": ["mlp.c_proj"]}},
    "one block": {"include": [r"h\.1\."]},
    "no embeddings": {"exclude": ["wte", "wpe"]},
}


@pytest.mark.parametrize("trained", TRAINED)
def test_only_what_is_trained_moves_and_its_tangents_are_exact(trained: str) -> None:
    run = small_run(trained=TRAINED[trained])
    whole = sum(parameter.numel() for parameter in run.model.parameters())
    assert 0 < run.step.space.size < whole
    simulated = tangents(run)
    trajectory = TrajectorySimulator(run.step, run.start, torch.ones(SOURCES, dtype=torch.float64), range(SOURCES))
    for number, batch in enumerate(run.batches):
        trajectory.advance(batch, number)
    for source in range(SOURCES):
        true = central_difference(run, source)
        assert (simulated[source] - true).norm() <= 1e-6 * true.norm()
        separate = run.train(weights_with(source, -1.0))
        torch.testing.assert_close(trajectory.replicas[source], separate, rtol=0, atol=1e-10)


def test_trajectory_with_small_epsilon_becomes_the_tangent() -> None:
    run = small_run()
    simulator = TrajectorySimulator(
        run.step, run.start, torch.ones(SOURCES, dtype=torch.float64), range(SOURCES), epsilon=1e-5
    )
    for number, batch in enumerate(run.batches):
        simulator.advance(batch, number)
    true = tangents(run)
    assert ((simulator.tangents() - true).norm(dim=1) <= 1e-3 * true.norm(dim=1)).all()


def test_rates_cover_every_optimizer() -> None:
    assert set(RATES) == set(DECAYS) == set(OPTIMIZERS)
