"""What is read off the schedule equals what the simulators then compute."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dist_attr.config import SimulationConfig
from dist_attr.influence import Levers, TangentSimulator
from dist_attr.simulation.probe import PassCost
from dist_attr.simulation.workload import active_sources, simulation_seconds
from tests.runs import SOURCES, small_batches, small_run


def settings(**values: Any) -> SimulationConfig:
    return SimulationConfig.model_validate(values)


PASSES = [PassCost(size, float(size), 0) for size in (1, 2, 4)]  # the last is not used
PRESENT = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]], bool)


@pytest.mark.parametrize("horizon", [None, 1, 2, 3])
@pytest.mark.parametrize("window", [None, 4])
def test_active_sources_are_those_that_the_simulator_computes(horizon: int | None, window: int | None) -> None:
    run = small_run(optimizer="momentum", steps=len(PRESENT) + 3)
    simulator = TangentSimulator(
        run.step, run.start, torch.ones(SOURCES), range(SOURCES), levers=Levers(horizon=horizon), sources_per_pass=1
    )
    expected = active_sources(PRESENT, settings(method="tangent", horizon=horizon, window=window))
    for step, batch in enumerate(small_batches(len(PRESENT))):
        if step < len(PRESENT) - (window or len(PRESENT)):
            assert not expected[step].any()
            continue
        (source,) = np.flatnonzero(PRESENT[step]).tolist()
        before = simulator.tangents().clone()
        simulator.advance(
            replace(batch, sources=torch.full_like(batch.sources, source)), step + 2
        )  # past the warm-up's 0
        moved = (simulator.tangents() != before).any(dim=1)
        assert moved.tolist() == expected[step].tolist()


def test_replicas_are_computed_in_the_whole_window() -> None:
    active = active_sources(PRESENT, settings(method="trajectory", window=2))
    assert active.tolist() == [[False] * 4] * 3 + [[True] * 4] * 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"method": "tangent"}, 1 + 2 + 3 + 4 + 4),  # as many tangents
        ({"method": "trajectory"}, 5 * (2 * 2 + 1)),  # 4 replicas and the run
        ({"method": "trajectory", "central": True}, 5 * (4 * 2 + 1)),
        ({"method": "trajectory", "window": 2}, 2 * (2 * 2 + 1)),
    ],
)
def test_seconds_are_those_of_the_passes(values: dict[str, Any], expected: float) -> None:
    simulation = settings(**values)
    active = active_sources(PRESENT, simulation)
    assert math.isclose(simulation_seconds(active, simulation, PASSES, 2), expected)
