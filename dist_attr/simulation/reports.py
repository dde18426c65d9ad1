"""What a run says of itself while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class SimulationReport:
    """What the simulation takes on each actor, measured or reckoned before the first step.

    Attributes:
        sources_per_pass: sources computed together, set or measured.
        source_step_seconds: time of one active source and step, on one actor.
        source_bytes: state of one source: parameters and optimizer slots, of each of its replicas.
        memory_bytes: of the actor that takes most: a pass, and the states of its sources if they are not parked.
        parked_bytes: states that an actor does not keep beside the run, of the one with most.
        parked: where they are: "host memory" or a folder; none if they fit.
    """

    sources_per_pass: int
    source_step_seconds: float
    source_bytes: int
    memory_bytes: int
    parked_bytes: int
    parked: str | None


@dataclass(frozen=True)
class StrideReport:
    """Where a run stands.

    Attributes:
        step: steps done, of `steps`.
        loss: of the last step over the global batch, nats per token.
        drift: of the simulation from DeepSpeed's parameters at the last check, 0 before the first.
        replica_steps_per_second: active sources times steps, of all actors in the last stride.
        simulation: what it takes; none with `simulation.method: none`.
    """

    step: int
    steps: int
    loss: float
    drift: float
    replica_steps_per_second: float
    simulation: SimulationReport | None = None


Progress = Callable[[StrideReport], None]
