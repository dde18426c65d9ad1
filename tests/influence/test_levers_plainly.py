"""Simulations under levers against the same in so many words: loss, clipping and Adam written out, in a plain loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_attr.influence import Adam, Batch, LearningRate, Levers, ParameterSpace, TrainingStep, module_forward
from tests.influence.lever_runs import SOURCES, STEPS, TANGENT, WEIGHTS, tangents
from tests.runs import Run


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


def losses(theta: Tensor, batch: Batch) -> Tensor:
    into, bias, out, last = theta.split([12, 4, 20, 5])
    hidden = torch.tanh(batch.inputs @ into.view(4, 3).T + bias)
    logits = hidden @ out.view(5, 4).T + last
    return nn.functional.cross_entropy(logits, batch.targets, reduction="none")


def gradient(theta: Tensor, batch: Batch, weights: Tensor, rows: Any = slice(None)) -> Any:
    """Of the mean over all rows, or some, of the losses times the weights of their sources."""
    return torch.func.grad(lambda theta: (weights[batch.sources] * losses(theta, batch))[rows].mean())(theta)


def adam(theta: Tensor, first: Tensor, second: Tensor, gradient: Tensor, t: int) -> Any:
    gradient = gradient * (0.3 / (gradient.square().sum().sqrt() + 1e-6)).clamp(max=1)
    first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
    root = (second / (1 - 0.999 ** (t + 1)) + 1e-6).sqrt() + 1e-8
    return theta - 0.02 * first / (1 - 0.9 ** (t + 1)) / root, first, second


def chosen_rows(batch: Batch, share: float, turn: int) -> list[int]:
    """The next rows of a batch, which it begins again at its end."""
    size = round(share * len(batch.targets))
    return [(turn * size + i) % len(batch.targets) for i in range(size)]


def plain_tangent(run: Run, source: int, levers: Levers) -> Tensor:
    """One source's, one product for each part."""
    theta, first, second = run.theta, torch.zeros_like(run.theta), torch.zeros_like(run.theta)
    moved, turn, last_seen = [torch.zeros_like(run.theta)] * 3, 0, -100
    only = torch.eye(SOURCES, dtype=torch.float64)[source]
    for t, batch in enumerate(run.batches):
        rows = chosen_rows(batch, levers.curvature_share, turn)

        def of_rows(theta: Tensor, batch: Batch = batch, rows: list[int] = rows) -> Any:
            return gradient(theta, batch, WEIGHTS, rows)

        def step(theta: Tensor, first: Tensor, second: Tensor, gradient: Tensor, t: int = t) -> Any:
            return adam(theta, first, second, gradient, t)

        change = gradient(theta, batch, only)
        if t % levers.stride == levers.stride - 1:
            change = (
                change + levers.curvature_weight * levers.stride * torch.func.jvp(of_rows, (theta,), (moved[0],))[1]
            )
            turn += 1
        last_seen = t if (batch.sources == source).any() else last_seen
        at = (theta, first, second, gradient(theta, batch, WEIGHTS))
        if levers.horizon is None or t - last_seen < levers.horizon:
            moved = list(torch.func.jvp(step, at, (*moved, change))[1])
        theta, first, second = step(*at)
    return moved[0]


def plain_replica(run: Run, source: int, epsilon: float, share: float, weight: float) -> Tensor:
    """One source's: the run and its replica side by side."""
    weights = WEIGHTS.clone()
    weights[source] -= epsilon
    of_run = of_replica = (run.theta, torch.zeros_like(run.theta), torch.zeros_like(run.theta))
    for t, batch in enumerate(run.batches):
        rows, at, there = chosen_rows(batch, share, t), of_run[0], of_replica[0]
        correction = gradient(there, batch, weights, rows) - gradient(at, batch, weights, rows)
        of_replica = adam(*of_replica, gradient(at, batch, weights) + weight * correction, t)
        of_run = adam(*of_run, gradient(at, batch, WEIGHTS), t)
    return (of_run[0] - of_replica[0]) / epsilon


@pytest.mark.parametrize("levers", [Levers(), *TANGENT.values()])
def test_tangents_equal_a_plain_loop(levers: Levers) -> None:
    run = small_network()
    simulated = tangents(run, levers=levers)
    for source in range(SOURCES):
        torch.testing.assert_close(simulated[source], plain_tangent(run, source, levers), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("share", "weight"), [(1.0, 1.0), (1.0, 0.6), (0.5, 1.0), (0.5, 0.6), (0.25, 0.3)])
@pytest.mark.parametrize("epsilon", [1.0, 0.3])
def test_replicas_equal_a_plain_loop(epsilon: float, share: float, weight: float) -> None:
    run = small_network()
    levers = Levers(curvature_share=share, curvature_weight=weight)
    simulated = tangents(run, method="trajectory", epsilon=epsilon, levers=levers)
    for source in range(SOURCES):
        plain = plain_replica(run, source, epsilon, share, weight)
        torch.testing.assert_close(simulated[source], plain, rtol=1e-9, atol=1e-12)
