"""Which simulation: what `method: auto` chooses, and the alternatives that a plan puts side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dist_attr.config import RunConfig, SimulationConfig
from dist_attr.simulation.workload import Bools, active_sources

HORIZON = 20
SHARE, WEIGHT = 0.25, 0.4  # see docs/results/dial.md
OF_ONE_METHOD = {"method", "epsilon", "central", "horizon", "stride"}
TANGENT_COST = 2.3  # gradients for each active source and step, where a replica costs one
# A horizon costs much fidelity (many small sources in docs/results/dial.md), so it has to save much: tangents
# are chosen where they cost less than these shares of what replicas cost, which have to be fetched if they are parked.
MUCH_LESS, LESS_THAN_PARKED = 0.25, 0.5


@dataclass(frozen=True)
class Chosen:
    """A simulation, and why it was chosen, for people to read."""

    settings: SimulationConfig
    reason: str


def choose(settings: SimulationConfig, present: Bools, source_bytes: int, memory_bytes: int, workers: int) -> Chosen:
    """What `method: auto` stands for.

    A trajectory is nearest to retraining and costs one gradient for each source and step. Tangents cost more for each,
    but with a horizon only for sources that were in one of the last batches: the only affordable choice for thousands.

    Args:
        settings: with method auto.
        present: (steps, sources), whether a step's batch holds a source.
        source_bytes: state of one source: parameters and optimizer slots.
        memory_bytes: what an actor has for them.
        workers: actors that share the sources.
    """
    sources = present.shape[1]
    trajectory = settings.model_copy(update={"method": "trajectory"})
    tangent = settings.model_copy(update={"method": "tangent", "horizon": HORIZON})
    replicas, tangents = (int(active_sources(present, method).sum()) for method in (trajectory, tangent))
    share, ratio = tangents / replicas, TANGENT_COST * tangents / replicas
    fits = -(-sources // workers) * source_bytes <= memory_bytes
    often = f"of {sources:,} sources {share:.0%} were in one of the last {HORIZON} batches, on average"
    if ratio < (MUCH_LESS if fits else LESS_THAN_PARKED):
        room = "" if fits else ", and the states of all do not fit in memory"
        return Chosen(
            tangent,
            f"tangent, horizon {HORIZON}: {often}{room}; replicas (method: trajectory) would be nearer to retraining "
            f"and cost {1 / ratio:.1f} × as much",
        )
    return Chosen(trajectory, f"trajectory: {often}; tangents would cost {ratio:.1f} × as much")


@dataclass(frozen=True)
class Choice:
    """Settings to estimate: what they are called, what differs from the run's by dotted name, and all of them."""

    name: str
    changes: dict[str, Any]
    config: RunConfig


def choices(config: RunConfig) -> list[Choice]:
    """The run as it is set, and the alternatives that make sense beside it."""
    simulation, found = config.simulation, [Choice("as set", {}, config)]

    def add(name: str, changes: dict[str, Any]) -> None:
        values = config.model_dump(mode="json", exclude_none=True)
        if "simulation.method" in changes:
            values["simulation"] = {k: v for k, v in values["simulation"].items() if k not in OF_ONE_METHOD}
        for key, value in changes.items():
            room, setting = key.split(".")
            values[room][setting] = value
        found.append(Choice(name, changes, RunConfig.parse(values)))

    if simulation.method == "none":
        return found
    if simulation.method != "tangent":
        add(f"tangent, horizon {HORIZON}", {"simulation.method": "tangent", "simulation.horizon": HORIZON})
    if simulation.method != "trajectory":
        add("trajectory", {"simulation.method": "trajectory"})
    if simulation.curvature_share == 1:
        changes = {"simulation.curvature_share": SHARE, "simulation.curvature_weight": WEIGHT}
        add(f"curvature share {SHARE}, weight {WEIGHT}", changes)
    if simulation.window is None and config.training.steps > 1:
        add("window, the last half", {"simulation.window": config.training.steps // 2})
    if config.model.lora is None and not config.model.include and not config.model.exclude:
        add("LoRA, rank 8", {"model.lora": {"rank": 8}})
    return found
