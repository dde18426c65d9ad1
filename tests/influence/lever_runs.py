"""Runs whose batches differ in the sources they hold, and simulations of them under levers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dist_attr.influence import LearningRate, Levers, Simulator, make_simulator
from tests.runs import Run

STEPS, SOURCES = 6, 7
FIRST, LATE, NEVER = 0, 5, 6  # in the batch of step 0 alone, from step 4 on, in no batch
WEIGHTS = torch.linspace(0.5, 2, SOURCES, dtype=torch.float64)

TANGENT = {
    "horizon": Levers(horizon=2),
    "stride": Levers(stride=2),
    "share": Levers(curvature_share=0.5),
    "weight": Levers(curvature_weight=0.6),
    "weight and stride": Levers(curvature_weight=0.6, stride=2),
    "all": Levers(horizon=3, stride=2, curvature_share=0.34, curvature_weight=0.7),
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
