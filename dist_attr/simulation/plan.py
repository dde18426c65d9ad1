"""What a run will cost, from a short measurement on the machines it will run on, and what others would cost instead.

Design decisions:
- The run's own actors start, build the model and take a few steps with DeepSpeed and a few passes of the simulation, all
  at once as in the run; then they go. Nothing is written.
- How many passes there will be is read off the batch schedule; only the time of one is measured.
- Alternatives with the same model are measured on the same actors; another parameter space needs actors of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
import torch

from dist_attr.cluster import connect, gpus_per_actor
from dist_attr.config import RunConfig, SimulationConfig
from dist_attr.errors import ConfigError, SimulationError
from dist_attr.influence import ParameterSpace, directional_logprobs
from dist_attr.models import causal_forward
from dist_attr.simulation.actor import ModelReport, SimulationActor
from dist_attr.simulation.placement import Placement
from dist_attr.simulation.prepare import PreparedRun, prepare
from dist_attr.simulation.probe import Probe
from dist_attr.simulation.workers import Actor, build, call, started_actors
from dist_attr.simulation.workload import Bools, active_sources, simulation_seconds, trained_tokens

TRAINING_STEPS = 3  # timed, after one that is not
QUERY_DIRECTIONS = 8
FLOAT32 = 4


@dataclass(frozen=True)
class Estimate:
    """What one choice of settings costs.

    Attributes:
        name: of the choice.
        settings: that differ from the run's, by dotted name.
        seconds: of the whole run, with starting the actors; none if it does not fit.
        simulation_seconds: of these, the simulation's own.
        of_retraining: simulation_seconds in units of what training once without each source would take.
        device_hours: of all its actors together, GPUs if they have some and CPU cores otherwise.
        sources_per_pass: sources computed together.
        memory_bytes: the simulation's, of the actor that takes most.
        parked: where states lie that do not fit in that memory; none if they do.
        store_bytes: of the influence store, before compression.
        query_seconds: linear readout of a query as long as the context, all sources, on one device.
        problem: why it does not fit or cannot run; none if it can.
    """

    name: str
    settings: dict[str, Any]
    seconds: float | None = None
    simulation_seconds: float | None = None
    of_retraining: float | None = None
    device_hours: float | None = None
    sources_per_pass: int | None = None
    memory_bytes: int | None = None
    parked: str | None = None
    store_bytes: int | None = None
    query_seconds: float | None = None
    problem: str | None = None


class PlanningActor(SimulationActor):
    """A worker of the run that measures and does not train."""

    def time_training(self) -> float:
        """Seconds of one of DeepSpeed's steps, all workers together."""
        for step in range(1 + TRAINING_STEPS):
            if step == 1:
                started = time.perf_counter()
            self._trainer.step(self._batch(step % len(self._task.schedule)), self._weights, step)
        return (time.perf_counter() - started) / TRAINING_STEPS

    def measure(self, settings: SimulationConfig) -> tuple[Probe, Placement] | str:
        """What a simulation takes on this actor, or why it does not fit."""
        try:
            measured = self.probe(settings, settings.sources_per_pass)
            return measured, self.find_room(settings, measured.best, measured.source_bytes)
        except SimulationError as error:
            return str(error)

    def time_readout(self) -> float:
        """Seconds of the linear readout of one query as long as the context, for one source."""
        space = ParameterSpace.of(self._trainer.whole)
        theta, tokens = space.read(self._trainer.whole), self._batch(0).inputs[:1]
        directions = torch.randn(QUERY_DIRECTIONS, len(theta), device=theta.device)
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            directional_logprobs(causal_forward(self._trainer.whole), space, theta, tokens, directions)
            seconds.append((time.perf_counter() - started) / QUERY_DIRECTIONS)
        return min(seconds)


def plan(config: RunConfig, *, on_stage: Callable[[str], object] = lambda _: None) -> list[Estimate]:
    """Estimate the run as it is set, and alternatives to it.

    Args:
        config: of a run with a trajectory or a tangent simulation, or without one.
        on_stage: called with what is being measured.

    Raises:
        DistAttrError: something about the run is wrong, or its model does not fit.
    """
    if config.simulation.method == "checkpoint":
        raise ConfigError(
            "plan knows runs that train; a descent from a finished model takes about 2 × simulation.descent.steps "
            "gradients of all the documents for each source"
        )
    connect()
    gpus = gpus_per_actor(config.cluster.workers)
    estimates = []
    for model, choices in _by_model(config):
        started = time.monotonic()
        run = prepare(choices[0][2])
        present = trained_tokens(run.task.corpus, run.task.schedule) > 0
        on_stage(f"starting {config.cluster.workers} actor(s){model}")
        with started_actors(PlanningActor, run, gpus) as actors:
            report = build(actors)
            (address,) = call([actors[0].address.remote()])
            call([actor.join.remote(address, "", None) for actor in actors])
            ready = time.monotonic() - started
            on_stage(f"timing DeepSpeed's steps{model}")
            step = max(call([actor.time_training.remote() for actor in actors]))
            (query,) = call([actors[0].time_readout.remote()])
            for name, settings, changed in choices:
                on_stage(f"timing the simulation: {name}")
                measured = call([actor.measure.remote(changed.simulation) for actor in actors])
                estimates.append(_estimate(name, settings, changed, report, present, measured, ready, step, query, gpus))
    return estimates
