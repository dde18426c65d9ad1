"""Settings of a simulation to choose from: the alternatives that a plan puts side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dist_attr.config import RunConfig, SimulationConfig

HORIZON, SHARE = 20, 0.25


@dataclass(frozen=True)
class Choice:
    """Settings to estimate: what they are called, what differs from the run's by dotted name, and all of them."""

    name: str
    changes: dict[str, Any]
    config: RunConfig


def choices(config: RunConfig) -> list[Choice]:
    """The run as it is set, and the alternatives that make sense beside it."""
    simulation, found = config.simulation, [Choice("as set", {}, config)]

    def add(name: str, **changes: Any) -> None:
        values = config.model_dump(mode="json", exclude_none=True)
        for key, value in changes.items():
            room, setting = key.split("__")
            values[room] |= {setting: value}
        changed = {key.replace("__", "."): value for key, value in changes.items()}
        found.append(Choice(name, changed, RunConfig.parse(values)))

    if simulation.method == "none":
        return found
    if simulation.method == "trajectory":
        add(
            f"tangent, horizon {HORIZON}",
            simulation__method="tangent",
            simulation__horizon=HORIZON,
            simulation__epsilon=1.0,
            simulation__central=False,
        )
    else:
        values = simulation.model_dump(exclude={"method", "horizon", "stride"}, exclude_none=True)
        trajectory = SimulationConfig(method="trajectory", **values)
        found.append(
            Choice(
                "trajectory",
                {"simulation.method": "trajectory"},
                config.model_copy(update={"simulation": trajectory}),
            )
        )
    if simulation.curvature_share == 1:
        add(f"curvature share {SHARE}", simulation__curvature_share=SHARE)
    if simulation.window is None and config.training.steps > 1:
        add("window, the last half", simulation__window=config.training.steps // 2)
    if config.model.lora is None and not config.model.include and not config.model.exclude:
        add("LoRA, rank 8", model__lora={"rank": 8})
    return found
