"""What a run says of itself while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dist_attr.store import Space


@dataclass(frozen=True)
class ModelReport:
    """What an actor built, before the first step."""

    fingerprint: str
    type: str
    space: Space


@dataclass(frozen=True)
class ActorReport:
    """What an actor says after a stride.

    Attributes:
        loss: its part of the last step's loss, none where nothing is trained.
        drift: of its simulation from the training run.
        source_steps: its active sources in each step, summed over the stride.
        failed: its sources whose simulation is known to have failed, and why.
    """

    loss: float | None = None
    drift: float = 0.0
    source_steps: int = 0
    failed: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SimulationReport:
    """What the simulation takes on each actor, measured or reckoned before the first step.

    Attributes:
        method: trajectory or tangent.
        reason: why `method: auto` chose it; empty where it was named.
        sources_per_pass: sources computed together, set or measured.
        source_step_seconds: time of one active source and step, on one actor.
        source_bytes: state of one source: parameters and optimizer slots, of each of its replicas.
        memory_bytes: of the actor that takes most: a pass, and the states of its sources if they are not parked.
        parked_bytes: states that an actor does not keep beside the run, of the one with most.
        parked: where they are: "host memory" or a folder; none if they fit.
    """

    method: str
    reason: str
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
        loss: of the last step over the global batch, nats per token; none where nothing is trained.
        drift: of the simulation from DeepSpeed's parameters at the last check, 0 before the first.
        replica_steps_per_second: active sources times steps, of all actors in the last stride.
        failed: sources whose simulation is known to have failed.
        simulation: what it takes; none with `simulation.method` none or checkpoint.
    """

    step: int
    steps: int
    loss: float | None
    drift: float
    replica_steps_per_second: float
    failed: int = 0
    simulation: SimulationReport | None = None


Progress = Callable[[StrideReport], None]
