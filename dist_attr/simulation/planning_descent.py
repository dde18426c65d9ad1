"""What a descent from a finished model will cost, from one of its passes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ray
import torch
from torch.func import vmap

from dist_attr.config import DescentConfig, RunConfig
from dist_attr.influence import gradient_in_parts
from dist_attr.simulation.descent import DescentActor
from dist_attr.simulation.estimate import Estimate, readout_seconds
from dist_attr.simulation.placement import GIB, Budget
from dist_attr.simulation.prepare import prepare
from dist_attr.simulation.workers import build, call_all, started_actors
from dist_attr.store import Codec

LANCZOS = 115  # gradients of each different batch, to measure its curvature; at most
BLOCKS = 3  # gradients' memory that a pass takes, beside the replicas themselves


class DescentProbe(NamedTuple):
    """What was measured on one actor.

    Attributes:
        pass_seconds: of one pass, over as many replicas and sequences as go together.
        gradient_seconds: of the gradient of as many sequences, for one set of parameters.
        sources: that are this actor's.
        sequences: in the batch of a step.
        parameters: that carry tangents.
        query_seconds: of the readout for one source.
        free_bytes: of its device's memory, which actors on one CPU machine share.
        machine: where it runs; a GPU is its own.
    """

    pass_seconds: float
    gradient_seconds: float
    sources: int
    sequences: int
    parameters: int
    query_seconds: float
    free_bytes: int
    machine: str


class PlanningDescentActor(DescentActor):
    """A worker of such a run that measures and does not descend."""

    def time_pass(self) -> DescentProbe:
        """Seconds of a pass; sources without a replica on this actor take none."""
        settings, rows = self._descent, self._task.schedule[0]
        part = self._batch_of(rows).part(slice(0, settings.sequences_per_pass))
        gradient = gradient_in_parts(self._step, part, settings.sequences_per_pass)
        replicas = max(1, min(settings.replicas_per_pass, 2 * len(self._sources)))
        thetas, weights = self._theta.repeat(replicas, 1), self._weights.repeat(replicas, 1)
        return DescentProbe(
            _seconds(lambda: vmap(gradient)(thetas, weights)),
            _seconds(lambda: gradient(self._theta, self._weights)),
            len(self._sources),
            len(rows),
            len(self._theta),
            readout_seconds(self._model, part.inputs[:1].to(self._theta.device)),
            Budget.of(self._theta.device, self._task.run.simulation, actors=1).device,
            ray.get_runtime_context().get_node_id() + (str(self._rank) if self._theta.is_cuda else ""),
        )


def plan_descent(config: RunConfig, gpus: int, connecting: float, on_stage: Callable[[str], object]) -> list[Estimate]:
    """Estimate a descent as it is set, and one of half as many steps.

    Args:
        config: of a run with method checkpoint.
        gpus: of each actor.
        connecting: seconds that joining the cluster took.
        on_stage: called with what is being measured.
    """
    settings = config.simulation.descent
    assert settings is not None
    on_stage("starting the actors")
    started = time.monotonic()
    run = prepare(config)
    with started_actors(PlanningDescentActor, run, gpus) as actors:
        build(actors)
        call_all([actor.join.remote("", "", None) for actor in actors])
        ready = connecting + time.monotonic() - started
        on_stage("timing a pass")
        probes: list[DescentProbe] = call_all([actor.time_pass.remote() for actor in actors])
    choices: list[tuple[str, dict[str, Any], int]] = [("as set", {}, settings.steps)]
    if settings.steps > 1:
        half = settings.steps // 2
        choices.append(("half the steps", {"simulation.descent.steps": half}, half))
    sources = len(run.task.corpus.sources)
    return [_estimate(config, settings, probes, (ready, gpus, sources), choice) for choice in choices]


def _estimate(
    config: RunConfig,
    settings: DescentConfig,
    probes: Sequence[DescentProbe],
    common: tuple[float, int, int],
    choice: tuple[str, dict[str, Any], int],
) -> Estimate:
    (ready, gpus, sources), (name, changes, steps) = common, choice
    simulation = max(_descent_seconds(settings, probe, steps, len(probes)) for probe in probes)
    total = ready + simulation
    memory = [_bytes(settings, probe) for probe in probes]
    machines = Counter(probe.machine for probe in probes)
    room = [probe.free_bytes // machines[probe.machine] for probe in probes]
    tight = next((i for i in range(len(probes)) if memory[i] > room[i]), None)
    if tight is not None:
        return Estimate(name, changes, problem=_too_little(memory[tight], room[tight]))
    return Estimate(
        name,
        changes,
        seconds=total,
        simulation_seconds=simulation,
        device_hours=total * len(probes) / 3600,
        device="GPU" if gpus else "CPU",
        sources_per_pass=max(1, settings.replicas_per_pass // 2),
        memory_bytes=max(memory),
        store_bytes=sources * Codec.of(config.store).bytes(probes[0].parameters),
        query_seconds=probes[0].query_seconds * sources,
    )


def _too_little(needed: int, room: int) -> str:
    return (
        f"the replicas of an actor's sources take about {needed / GIB:.3g} GiB, and it has {room / GIB:.3g} GiB; "
        "spread the run over more machines, lower simulation.descent.replicas_per_pass, or train fewer parameters "
        "(model.lora)"
    )


def _bytes(settings: DescentConfig, probe: DescentProbe) -> int:
    together = min(settings.replicas_per_pass, 2 * probe.sources)
    return 4 * probe.parameters * (2 * probe.sources + BLOCKS * together)


def _descent_seconds(settings: DescentConfig, probe: DescentProbe, steps: int, workers: int) -> float:
    parts = -(-probe.sequences // settings.sequences_per_pass)
    passes = -(-2 * probe.sources // settings.replicas_per_pass)
    batches = 1 if settings.batch_size is None else steps  # that differ
    gradients = 2 * batches  # of all, and of each source's own sequences, at rest
    if settings.rate is None or settings.damping is None:
        gradients += LANCZOS * -(-batches // workers)
    return parts * (steps * passes * probe.pass_seconds + gradients * probe.gradient_seconds)


def _seconds(work: Callable[[], torch.Tensor]) -> float:
    """The shorter of two times, after one that is not counted."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        work().sum().item()  # waits for a GPU
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
