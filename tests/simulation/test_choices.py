"""What `method: auto` chooses, and which alternatives a plan offers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dist_attr.config import RunConfig, SimulationConfig
from dist_attr.simulation.choices import HORIZON, choices, choose
from dist_attr.simulation.workload import Bools

OTHERS = "curvature share 0.25, weight 0.4", "window, the last half", "LoRA, rank 8"


def turns(sources: int, steps: int, each: int) -> Bools:
    """Sources that come in turns, so many in each batch."""
    present = np.zeros((steps, sources), bool)
    for step in range(steps):
        present[step, [(step * each + i) % sources for i in range(each)]] = True
    return present


@pytest.mark.parametrize(
    ("sources", "each", "memory", "method"),
    [
        (24, 8, 1000, "trajectory"),  # all are active after three steps
        (2000, 8, 1000, "tangent"),  # at most 160 of 2,000 are active
        (900, 8, 1000, "trajectory"),  # tangents would cost less than half of replicas, and fidelity
        (900, 8, 10, "tangent"),  # but replicas would have to be fetched from where they are parked
        (300, 8, 10, "trajectory"),  # about half are active
    ],
)
def test_auto_takes_what_costs_less(sources: int, each: int, memory: int, method: str) -> None:
    present = turns(sources, 100, each)
    chosen = choose(SimulationConfig(window=80), present, source_bytes=1, memory_bytes=memory, workers=2)
    assert chosen.settings == SimulationConfig.model_validate(
        {"method": method, "window": 80, "horizon": HORIZON if method == "tangent" else None}
    )
    assert chosen.reason.startswith(method)


@pytest.mark.parametrize(
    ("simulation", "names"),
    [
        (
            {},
            [
                "as set",
                "tangent, horizon 20",
                "trajectory",
                "curvature share 0.25, weight 0.4",
                "window, the last half",
                "LoRA, rank 8",
            ],
        ),
        (
            {"method": "trajectory", "central": True, "curvature_share": 0.5},
            ["as set", "tangent, horizon 20", *OTHERS[1:]],
        ),
        (
            {"method": "tangent", "stride": 2, "window": 7},
            ["as set", "trajectory", OTHERS[0], OTHERS[2]],
        ),
        ({"method": "none"}, ["as set"]),
    ],
)
def test_every_alternative_is_a_run_that_differs_as_it_says(simulation: dict[str, Any], names: list[str]) -> None:
    config = RunConfig.parse({"simulation": simulation, "training": {"steps": 20, "warmup_steps": 0}})
    offered = choices(config)
    assert [choice.name for choice in offered] == names
    for choice in offered:
        values = choice.config.model_dump(mode="json")
        for key, value in choice.changes.items():
            room, setting = key.split(".")
            changed = values[room][setting]
            assert changed == value or value.items() <= changed.items()
        assert choice.config.training == config.training
    assert len({str(choice.config) for choice in offered}) == len(offered)
