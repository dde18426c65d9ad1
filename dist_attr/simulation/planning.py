"""What a run will cost, from a short measurement on the machines it will run on, and what others would cost instead.

Design decisions:
- The run's own actors start, build the model, and take a few steps with DeepSpeed and a few passes of the simulation,
  all at once as in the run; then they go. Nothing is written.
- How many passes there will be is read off the batch schedule; only the time of one is measured.
- Alternatives with the same model are measured on the same actors; another parameter space needs actors of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dist_attr.cluster import connect, gpus_per_actor
from dist_attr.config import RunConfig, SimulationConfig
from dist_attr.errors import SimulationError
from dist_attr.simulation.actor import SimulationActor
from dist_attr.simulation.choices import Choice, choices, choose
from dist_attr.simulation.estimate import Estimate, readout_seconds
from dist_attr.simulation.placement import Placement
from dist_attr.simulation.planning_descent import plan_descent
from dist_attr.simulation.prepare import PreparedRun, prepare
from dist_attr.simulation.probe import Probe
from dist_attr.simulation.reports import ModelReport
from dist_attr.simulation.workers import build, call_all, started_actors
from dist_attr.simulation.workload import Bools, active_sources, simulation_seconds
from dist_attr.store import Codec

TRAINING_STEPS = 3  # timed, after one that is not


class PlanningActor(SimulationActor):
    """A worker of the run that measures and does not train."""

    def time_training(self) -> float:
        """Seconds of one of DeepSpeed's steps, all workers together."""
        started = 0.0
        for step in range(1 + TRAINING_STEPS):
            if step == 1:
                started = time.perf_counter()
            self._trainer.step(self._batch(step % len(self._task.schedule)), self._weights, step)
        return (time.perf_counter() - started) / TRAINING_STEPS

    def time_readout(self) -> float:
        """Seconds of the linear readout of one query as long as the context, for one source."""
        return readout_seconds(self._trainer.whole, self._batch(0).inputs[:1])

    def measure(self, settings: SimulationConfig) -> tuple[Probe, Placement] | str:
        """What a simulation takes on this actor, or why it does not fit."""
        try:
            measured = self.probe(settings, settings.sources_per_pass)
            return measured, self._find_room(settings, measured.best, measured.source_bytes)
        except SimulationError as error:
            return str(error)


@dataclass(frozen=True)
class Common:
    """What all choices with one parameter space have in common.

    Attributes:
        present: (steps, sources), whether a step's batch holds a source.
        gpus: of each actor.
        ready_seconds: until the actors were ready for the first step.
        step_seconds: of one of DeepSpeed's steps.
        query_seconds: of the readout for one source.
        model: what the actors built.
    """

    present: Bools
    gpus: int
    ready_seconds: float
    step_seconds: float
    query_seconds: float
    model: ModelReport


def plan(config: RunConfig, *, on_stage: Callable[[str], object] = lambda _: None) -> list[Estimate]:
    """Estimate the run as it is set, first, and alternatives to it.

    Args:
        config: of the run.
        on_stage: called with what is being measured.

    Raises:
        DistAttrError: something about the run is wrong, or its model does not fit.
    """
    started = time.monotonic()
    connect()
    gpus, connecting = gpus_per_actor(config.cluster.workers), time.monotonic() - started
    if config.simulation.method == "checkpoint":
        return plan_descent(config, gpus, connecting, on_stage)
    chosen, *others = choices(config)
    same_model = [chosen, *(other for other in others if other.config.model == config.model)]
    other_models = [[other] for other in others if other.config.model != config.model]
    return [
        estimate for group in (same_model, *other_models) for estimate in _estimates(group, gpus, connecting, on_stage)
    ]


def _estimates(
    group: Sequence[Choice], gpus: int, connecting: float, on_stage: Callable[[str], object]
) -> list[Estimate]:
    """Of choices with one parameter space, on one set of actors."""
    which = "" if group[0].name == "as set" else f" with {group[0].name}"
    on_stage(f"starting the actors{which}")
    started = time.monotonic()
    run = prepare(group[0].config)
    with started_actors(PlanningActor, run, gpus) as actors:
        model = build(actors)
        (address,) = call_all([actors[0].address.remote()])
        memory = min(call_all([actor.join.remote(address, "", None) for actor in actors]))
        ready = connecting + time.monotonic() - started
        on_stage(f"timing DeepSpeed{which}")
        step = max(call_all([actor.time_training.remote() for actor in actors]))
        (query,) = call_all([actors[0].time_readout.remote()])
        common, estimates = Common(run.present, gpus, ready, step, query, model), []
        for choice in (_resolved(choice, run, model, memory) for choice in group):
            measured, began = [], time.monotonic()
            if choice.config.simulation.method != "none":
                on_stage(f"timing the simulation: {choice.name}")
                measured = call_all([actor.measure.remote(choice.config.simulation) for actor in actors])
            estimates.append(_estimate(choice, common, measured, time.monotonic() - began))
    return estimates


def _resolved(choice: Choice, run: PreparedRun, model: ModelReport, memory: int) -> Choice:
    """With the method that auto stands for."""
    config = choice.config
    if config.simulation.method != "auto":
        return choice
    chosen = choose(config.simulation, run.present, run.source_bytes(model), memory, config.cluster.workers)
    named = config.model_copy(update={"simulation": chosen.settings})
    return Choice(f"{choice.name} ({chosen.settings.method})", choice.changes, named)


def _estimate(
    choice: Choice, common: Common, measured: Sequence[tuple[Probe, Placement] | str], measuring: float
) -> Estimate:
    """What the measurements come to over the whole run."""
    workers, settings = choice.config.cluster.workers, choice.config.simulation
    problem = next((problem for problem in measured if isinstance(problem, str)), None)
    if problem is not None:
        return Estimate(choice.name, choice.changes, problem=problem)
    pairs = [pair for pair in measured if not isinstance(pair, str)]
    probes, places = [probe for probe, _ in pairs], [place for _, place in pairs]
    training = common.step_seconds * choice.config.training.steps
    total = common.ready_seconds + training
    if not pairs:
        return Estimate(
            choice.name,
            choice.changes,
            seconds=total,
            device_hours=total * workers / 3600,
            device="GPU" if common.gpus else "CPU",
        )
    active = active_sources(common.present, settings)
    sources = active.shape[1]
    simulation = max(
        simulation_seconds(active[:, rank::workers], settings, probe.passes, probe.best.sources)
        for rank, probe in enumerate(probes)
    )
    total += measuring + simulation
    return Estimate(
        choice.name,
        choice.changes,
        seconds=total,
        simulation_seconds=simulation,
        of_retraining=simulation / (training * sources),
        device_hours=total * workers / 3600,
        device="GPU" if common.gpus else "CPU",
        sources_per_pass=probes[0].best.sources,
        memory_bytes=max(place.device_bytes for place in places),
        parked=next((place.parked for place in places if place.parked), None),
        store_bytes=sources * Codec.of(choice.config.store).bytes(common.model.space.size),
        query_seconds=common.query_seconds * sources,
    )
