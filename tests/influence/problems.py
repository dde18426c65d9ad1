"""Finished models small enough for their Hessian to be formed and inverted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import hessian, jacrev

from dist_attr.influence import (
    SGD,
    Batch,
    CheckpointSimulator,
    Curvature,
    ParameterSpace,
    TrainingStep,
    module_forward,
)
from tests.runs import SOURCES

ONES = torch.ones(SOURCES, dtype=torch.float64)


@dataclass
class Problem:
    """A finished model and its documents, with H (P, P) and the sources' gradients g (sources, P)."""

    step: TrainingStep
    theta: Tensor
    batch: Batch
    hessian: Tensor
    gradients: Tensor

    @property
    def curvature(self) -> Curvature:
        values = torch.linalg.eigvalsh(self.hessian)
        return Curvature(float(values[-1]), float(values[0]))

    def simulator(self, sources: Sequence[int] = range(SOURCES), **settings: Any) -> CheckpointSimulator:
        settings = {"damping": 0.1, "epsilon": 1e-3, "rate": 1 / (self.curvature.largest + 0.1)} | settings
        return CheckpointSimulator(self.step, self.theta, ONES, sources, **settings)

    def solution(self, damping: float) -> Tensor:
        solution: Tensor = torch.linalg.solve(self.hessian + damping * torch.eye(len(self.theta)), self.gradients.T)
        return -solution.T


@cache
def problem(model: str = "logistic", training: int = 30) -> Problem:
    """A tiny classifier after some steps of training; far from the end of it, as large models are."""
    torch.manual_seed(0)
    layers = [nn.Linear(3, 4)] if model == "logistic" else [nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)]
    module = nn.Sequential(*layers).double()
    inputs = torch.randn(40, 3, dtype=torch.float64)
    targets = (inputs @ torch.randn(3, 4, dtype=torch.float64) + torch.randn(40, 4)).argmax(1)
    sources = torch.arange(40) % SOURCES
    sources[[5, 6, 7]] = -1
    batch = Batch(inputs, targets, sources)
    space = ParameterSpace.of(module)
    # What the simulator has no use for (momentum, clipping, weight decay) is there, and must not show.
    step = TrainingStep(module_forward(module), space, SGD(momentum=0.9), lambda _: 0.05, 0.1, 0.5)
    plain = TrainingStep(step.forward, space, SGD(), lambda _: 0.5)
    state = plain.initial(space.read(module))
    for number in range(training):
        state = plain(state, ONES, batch, number)
    h = hessian(lambda theta: loss(step, theta, ONES, batch))(state.theta)
    g = jacrev(lambda weights: step.gradient(state.theta, weights, batch))(ONES).T
    return Problem(step, state.theta, batch, h, g)


def loss(step: TrainingStep, theta: Tensor, weights: Tensor, batch: Batch) -> Tensor:
    logits = step.forward(step.space.unflatten(theta), batch.inputs)
    rows = nn.functional.cross_entropy(logits, batch.targets, reduction="none")
    real = batch.sources >= 0
    return (weights[batch.sources] * rows)[real].mean()
