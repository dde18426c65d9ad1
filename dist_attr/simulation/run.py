"""The driver: it prepares a run, leads the actors through it in strides, and declares the result complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

from dist_attr.cluster import connect, gpus_per_actor
from dist_attr.config import RunConfig, absolute_url
from dist_attr.corpus import tokenizer_fingerprint
from dist_attr.errors import ConfigError, DistAttrError, SimulationError, WorkerLostError
from dist_attr.models import upload_folder
from dist_attr.simulation.actor import SimulationActor
from dist_attr.simulation.checkpoint import Checkpoint, Checkpoints, check_same_run
from dist_attr.simulation.choices import Chosen, choose
from dist_attr.simulation.descent import DescentActor, agree
from dist_attr.simulation.metrics import RunMetrics
from dist_attr.simulation.placement import Placement
from dist_attr.simulation.prepare import PreparedRun, prepare
from dist_attr.simulation.probe import Probe
from dist_attr.simulation.reports import ActorReport, ModelReport, Progress, SimulationReport, StrideReport
from dist_attr.simulation.workers import Actor, build, call_all, started_actors
from dist_attr.store import Descent, InfluenceStore, ModelIdentity, Place, StoreWriter, manifest_at, open_store
from dist_attr.store.places import clear_errors

STRIDE_SECONDS = 1.0


def simulate(config: RunConfig, *, overwrite: bool = False, progress: Progress | None = None) -> InfluenceStore | None:
    """Train a model under DeepSpeed and simulate the influence of every source beside it, or from a finished model.

    A run that was interrupted continues from its last checkpoint when it is started again with the same settings. One
    that loses a worker does so by itself.

    Args:
        config: the whole run. `config.output` will hold run.yaml, model/ and, last of all, a complete influence.zarr.
        overwrite: replace a finished or interrupted run at that place.
        progress: called after every stride of about a second.

    Returns:
        The influence store; None with `simulation.method: none`, which only trains.

    Raises:
        DistAttrError: something about the run is wrong; nothing that looks finished is left behind.
    """
    run = prepare(config)
    output = absolute_url(config.output)
    checkpoints = Checkpoints(output, discard=overwrite)
    _check_output(run, output, overwrite)
    check_same_run(checkpoints.latest(), run.identity, output)
    connect()
    gpus = gpus_per_actor(config.cluster.workers)
    metrics = RunMetrics(output)

    def report(stride: StrideReport) -> None:
        metrics.report(stride)
        if progress is not None:
            progress(stride)

    for failures in count():
        try:
            _attempt(run, gpus, output, checkpoints, report, overwrite)
            break
        except WorkerLostError as error:
            metrics.worker_lost()
            if failures >= config.cluster.max_failures:
                raise SimulationError(
                    f"{error}; after {failures} further attempts (cluster.max_failures) the run was stopped. "
                    "Started again with the same settings it continues from its last checkpoint"
                ) from error
    checkpoints.remove()
    return None if config.simulation.method == "none" else open_store(f"{output}/influence.zarr")


def _check_output(run: PreparedRun, output: str, overwrite: bool) -> None:
    filesystem, path = Place(output).files()
    if "memory" in str(filesystem.protocol):
        raise ConfigError(
            f"output {output}: memory:// belongs to one process and the actors are others; use a directory"
        )
    with clear_errors(output):
        finished = filesystem.exists(f"{path}/run.yaml")
    if finished and not overwrite:
        raise ConfigError(f"output {output} holds a finished run; choose another place, or say --overwrite")
    if not overwrite and (there := manifest_at(Place(f"{output}/influence.zarr"))) and there.computes != run.computes:
        raise ConfigError(f"output {output} holds the store of another run; choose another place, or say --overwrite")


def _attempt(
    run: PreparedRun, gpus: int, output: str, checkpoints: Checkpoints, progress: Progress, overwrite: bool
) -> None:
    """Go through the run with one set of actors, from the last checkpoint on if there is one."""
    kind = SimulationActor if run.config.simulation.descent is None else DescentActor
    with started_actors(kind, run, gpus) as actors:
        model = build(actors)
        # Only now, when the model is known to be one that can be trained, is anything of an earlier run thrown away.
        checkpoints.discard_others()
        checkpoint = checkpoints.latest()
        if checkpoint is not None and checkpoint.initial_model != model.fingerprint:
            raise SimulationError(
                f"output {output} holds an interrupted run that began with another model than the one built now; "
                "the model's files or the software changed. Choose another place, or say --overwrite"
            )
        _clear_result(run, output, overwrite)
        (address,) = call_all([actors[0].address.remote()])
        memory = min(call_all([actor.join.remote(address, checkpoints.url, checkpoint) for actor in actors]))
        run, simulation = _settle(run, actors, model, memory, checkpoints.url, checkpoint)
        descent = _agree_on_descent(run, actors, checkpoint)

        def save(step: int) -> None:
            folder = checkpoints.folder(step)
            written = call_all([actor.save_checkpoint.remote(f"{checkpoints.url}/{folder}") for actor in actors])
            files = {name: digest for part in written for name, digest in part.items()}
            checkpoints.finish(
                Checkpoint(
                    step=step,
                    workers=len(actors),
                    folder=folder,
                    files=files,
                    identity=run.identity,
                    initial_model=model.fingerprint,
                    simulation=run.config.simulation,
                    descent=descent,
                )
            )

        def report(stride: StrideReport) -> None:
            progress(replace(stride, simulation=simulation))

        _train(run, actors, 0 if checkpoint is None else checkpoint.step, report, save)
        _write_result(run, output, actors, model, descent)


def _agree_on_descent(run: PreparedRun, actors: Sequence[Actor], checkpoint: Checkpoint | None) -> Descent | None:
    """Let all actors of a run without training descend alike: as the checkpoint says, as set, or as measured now."""
    settings = run.config.simulation.descent
    if settings is None:
        return None
    descent = None if checkpoint is None else checkpoint.descent
    if descent is None:
        given = settings.rate is not None and settings.damping is not None
        measured = [] if given else call_all([actor.measure.remote() for actor in actors])
        descent = agree(settings, [curvature for part in measured for curvature in part])
    call_all([actor.descend.remote(descent) for actor in actors])
    return descent


def _clear_result(run: PreparedRun, output: str, overwrite: bool) -> None:
    """Remove what is replaced; rows that this very run wrote before it was interrupted stay."""
    filesystem, path = Place(output).files()
    store = Place(f"{output}/influence.zarr")
    there = None if overwrite else manifest_at(store)
    keep = there is not None and not there.complete and there.computes == run.computes
    # run.yaml goes first: without it, nothing that is left looks finished.
    with clear_errors(output):
        for part in ("run.yaml", *(() if keep else ("influence.zarr",)), "model"):
            if filesystem.exists(f"{path}/{part}"):
                filesystem.rm(f"{path}/{part}", recursive=True)


def _settle(
    run: PreparedRun,
    actors: Sequence[Actor],
    model: ModelReport,
    memory: int,
    url: str,
    checkpoint: Checkpoint | None,
) -> tuple[PreparedRun, SimulationReport | None]:
    """Choose the method and the size of a pass, as they were before if there is a checkpoint, and let all find room."""
    settings, chosen = run.config.simulation, None
    if settings.method in ("none", "checkpoint"):
        return run, None
    if settings.method == "auto":
        chosen = (
            choose(settings, run.present, run.source_bytes(model), memory, len(actors))
            if checkpoint is None
            else Chosen(settings.model_copy(update=checkpoint.simulation.model_dump(include={"method", "horizon"})), "")
        )
        settings = chosen.settings
    if settings.sources_per_pass is None and checkpoint is not None:
        settings = settings.model_copy(update={"sources_per_pass": checkpoint.simulation.sources_per_pass})
    measured: Probe
    (measured,) = call_all([actors[0].probe.remote(settings, settings.sources_per_pass)])
    cost = measured.best
    if settings.sources_per_pass is None:
        settings = settings.model_copy(update={"sources_per_pass": cost.sources})
    placed: list[Placement] = call_all(
        [actor.settle.remote(settings, cost, measured.source_bytes, url, checkpoint) for actor in actors]
    )
    return run.with_simulation(settings), SimulationReport(
        method=settings.method,
        reason=chosen.reason if chosen else "",
        sources_per_pass=cost.sources,
        source_step_seconds=cost.seconds_each,
        source_bytes=measured.source_bytes,
        memory_bytes=max(place.device_bytes for place in placed),
        parked_bytes=max(place.state_bytes if place.parked else 0 for place in placed),
        parked=next((place.parked for place in placed if place.parked), None),
    )


def _train(
    run: PreparedRun, actors: Sequence[Actor], done: int, progress: Progress, save: Callable[[int], None]
) -> None:
    steps, stride, drift = run.config.steps, 1, 0.0
    seconds_between = 60 * run.config.cluster.checkpoint_minutes
    saved, saved_at = done, time.monotonic()
    calls: list[Any] = []
    try:
        while done < steps:
            started = time.monotonic()
            # In one assignment: an interruption finds calls for as many steps as it thinks are under way.
            done, calls = done + stride, [actor.advance.remote(stride) for actor in actors]
            reports: list[ActorReport] = call_all(calls)
            seconds = time.monotonic() - started
            drift = max(report.drift for report in reports) or drift
            losses = [report.loss for report in reports if report.loss is not None]
            failed = {source: why for report in reports for source, why in report.failed.items()}
            source_steps = sum(report.source_steps for report in reports)
            progress(
                StrideReport(done, steps, sum(losses) if losses else None, drift, source_steps / seconds, len(failed))
            )
            if failed and len(failed) == len(run.task.corpus.sources):
                raise SimulationError(f"the simulation of every source failed; of the first: {failed[0]}")
            if seconds_between and time.monotonic() - saved_at >= seconds_between and done < steps:
                save(done)
                saved, saved_at = done, time.monotonic()
            stride = max(1, min(steps - done, 2 * stride, round(stride * STRIDE_SECONDS / seconds)))
    except KeyboardInterrupt:
        # The actors finish their stride and save it; a second Ctrl-C does not wait for that. If they cannot, the run
        # stops all the same, with the checkpoint before.
        if seconds_between and done > saved:
            with suppress(DistAttrError):
                call_all(calls)
                save(done)
        raise


def _write_result(
    run: PreparedRun, output: str, actors: Sequence[Actor], model: ModelReport, descent: Descent | None
) -> None:
    store: StoreWriter | None = None
    failed: dict[int, str] = {}
    if run.config.simulation.method != "none":
        store = StoreWriter.create(f"{output}/influence.zarr", run.manifest(model, descent), run.records(), go_on=True)
        for part in call_all([actor.write.remote(store.url) for actor in actors]):
            failed |= part
    weights, *_ = call_all([actor.save.remote(f"{output}/model") for actor in actors])
    with upload_folder(f"{output}/model") as folder:
        run.tokenizer.save_pretrained(folder)
    if store is not None:
        tokenizer = tokenizer_fingerprint(run.tokenizer)
        store.finish(ModelIdentity(type=model.type, weights=weights, tokenizer=tokenizer), failed)
    Place(output).write("run.yaml", run.config.to_yaml().encode())
