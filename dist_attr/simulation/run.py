"""The driver: it prepares a run, leads the actors through it in strides, and declares the result complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Any

import fsspec
import ray
from ray.exceptions import RayActorError, RayTaskError

from dist_attr.cluster import ENVIRONMENT, connect, gpus_per_actor
from dist_attr.config import RunConfig, absolute_url
from dist_attr.corpus import tokenizer_fingerprint
from dist_attr.errors import ConfigError, DistAttrError, SimulationError, WorkerLostError
from dist_attr.models import upload_folder
from dist_attr.simulation.actor import ActorReport, ModelReport, SimulationActor
from dist_attr.simulation.checkpoint import Checkpoint, Checkpoints, check_same_run
from dist_attr.simulation.metrics import RunMetrics
from dist_attr.simulation.placement import Placement
from dist_attr.simulation.prepare import PreparedRun, prepare
from dist_attr.simulation.probe import Probe
from dist_attr.simulation.reports import Progress, SimulationReport, StrideReport
from dist_attr.store import InfluenceStore, ModelIdentity, StoreWriter, open_store

STRIDE_SECONDS = 1.0
LOSS_SECONDS = 20.0  # in which Ray notices that a process is gone


# Ray's types for actors do not know the methods of the class behind them.
Actor = Any


def simulate(config: RunConfig, *, overwrite: bool = False, progress: Progress | None = None) -> InfluenceStore | None:
    """Train a model under DeepSpeed and simulate the influence of every source beside it.

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
    _check_output(output, overwrite)
    check_same_run(checkpoints.latest(), run.identity(), output)
    connect()
    gpus = gpus_per_actor(config.cluster.workers)
    metrics = RunMetrics(output)

    def report(stride: StrideReport) -> None:
        metrics.report(stride)
        if progress is not None:
            progress(stride)

    for failures in count():
        try:
            _attempt(run, gpus, output, checkpoints, report)
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


def _check_output(output: str, overwrite: bool) -> None:
    filesystem, path = fsspec.core.url_to_fs(output)
    if "memory" in str(filesystem.protocol):
        raise ConfigError(
            f"output {output}: memory:// belongs to one process and the actors are others; use a directory"
        )
    if filesystem.exists(f"{path}/run.yaml") and not overwrite:
        raise ConfigError(f"output {output} holds a finished run; choose another place, or say --overwrite")


def _attempt(run: PreparedRun, gpus: int, output: str, checkpoints: Checkpoints, progress: Progress) -> None:
    """Go through the run with one set of actors, from the last checkpoint on if there is one."""
    with _actors(run, gpus) as actors:
        _wait_for_nodes(actors, run.config.cluster.wait_minutes)
        model = _build(actors)
        # Only now, when the model is known to be one that can be trained, is anything of an earlier run thrown away.
        checkpoints.discard_others()
        checkpoint = checkpoints.latest()
        if checkpoint is not None and checkpoint.initial_model != model.fingerprint:
            raise SimulationError(
                f"output {output} holds an interrupted run that began with another model than the one built now; "
                "the model's files or the software changed. Choose another place, or say --overwrite"
            )
        _clear_result(output)
        (address,) = _all([actors[0].address.remote()])
        _all([actor.join.remote(address, checkpoints.url, checkpoint) for actor in actors])
        simulation = _settle(run, actors, checkpoints.url, checkpoint)
        if simulation is not None and run.config.simulation.sources_per_pass is None:
            run = run.with_sources_per_pass(simulation.sources_per_pass)

        def save(step: int) -> None:
            folder = checkpoints.folder(step)
            written = _all([actor.save_checkpoint.remote(f"{checkpoints.url}/{folder}") for actor in actors])
            files = {name: digest for part in written for name, digest in part.items()}
            checkpoints.finish(
                Checkpoint(
                    step=step,
                    workers=len(actors),
                    folder=folder,
                    files=files,
                    identity=run.identity(),
                    initial_model=model.fingerprint,
                    sources_per_pass=run.config.simulation.sources_per_pass,
                )
            )

        def report(stride: StrideReport) -> None:
            progress(replace(stride, simulation=simulation))

        _train(run, actors, 0 if checkpoint is None else checkpoint.step, report, save)
        _write_result(run, output, actors, model)


def _clear_result(output: str) -> None:
    filesystem, path = fsspec.core.url_to_fs(output)
    # run.yaml goes first: without it, nothing that is left looks finished.
    for part in ("run.yaml", "influence.zarr", "model"):
        if filesystem.exists(f"{path}/{part}"):
            filesystem.rm(f"{path}/{part}", recursive=True)


@contextmanager
def _actors(run: PreparedRun, gpus: int) -> Iterator[list[Actor]]:
    """The actors of a run; however it ends, they are gone afterwards."""
    workers = run.config.cluster.workers
    remote: Actor = ray.remote(SimulationActor).options(
        num_cpus=1, num_gpus=gpus, runtime_env={"env_vars": ENVIRONMENT}
    )
    task = ray.put(run.task)
    actors = [remote.remote(rank, task) for rank in range(workers)]
    try:
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor)


def _wait_for_nodes(actors: Sequence[Actor], minutes: float) -> None:
    """Until every actor has found a place: a cluster may be busy, or still replacing a node that died."""
    calls = [actor.__ray_ready__.remote() for actor in actors]
    ready, waiting = ray.wait(calls, num_returns=len(calls), timeout=60 * minutes)
    if waiting:
        raise SimulationError(
            f"{len(waiting)} of {len(calls)} actors found no free CPU or GPU on the cluster within {minutes:g} minutes "
            "(cluster.wait_minutes). Add nodes, or ask for fewer (cluster.workers); a run that had begun continues "
            "from its last checkpoint when it is started again"
        )
    _all(ready)


def _build(actors: Sequence[Actor]) -> ModelReport:
    models: list[ModelReport] = _all([actor.build.remote() for actor in actors])
    if len({model.fingerprint for model in models}) > 1:
        raise SimulationError(
            "the actors built different initial weights from the same seed; their machines have different software, "
            "or the model path holds different files on them"
        )
    return models[0]


def _settle(
    run: PreparedRun, actors: Sequence[Actor], url: str, checkpoint: Checkpoint | None
) -> SimulationReport | None:
    """Choose the size of a pass, the same for all actors and as it was before, and let them find room."""
    if run.config.simulation.method == "none":
        return None
    before = checkpoint.sources_per_pass if checkpoint is not None else None
    measured: Probe
    (measured,) = _all([actors[0].probe.remote(run.config.simulation.sources_per_pass or before)])
    cost = measured.best
    placed: list[Placement] = _all(
        [actor.settle.remote(cost, measured.source_bytes, url, checkpoint) for actor in actors]
    )
    return SimulationReport(
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
    steps, stride, drift = run.config.training.steps, 1, 0.0
    seconds_between = 60 * run.config.cluster.checkpoint_minutes
    saved, saved_at = done, time.monotonic()
    while done < steps:
        started, calls = time.monotonic(), [actor.advance.remote(stride) for actor in actors]
        done += stride
        try:
            reports: list[ActorReport] = _all(calls)
            seconds = time.monotonic() - started
            drift = max(report.drift for report in reports) or drift
            loss = sum(report.loss for report in reports)
            source_steps = sum(report.source_steps for report in reports)
            progress(StrideReport(done, steps, loss, drift, source_steps / seconds))
        except KeyboardInterrupt:
            # The actors finish their stride and save it; a second Ctrl-C does not wait for that. If they cannot, the
            # run stops all the same, with the checkpoint before.
            if seconds_between and done > saved:
                with suppress(DistAttrError):
                    _all(calls)
                    save(done)
            raise
        if seconds_between and time.monotonic() - saved_at >= seconds_between and done < steps:
            save(done)
            saved, saved_at = done, time.monotonic()
        stride = max(1, min(steps - done, 2 * stride, round(stride * STRIDE_SECONDS / seconds)))


def _write_result(run: PreparedRun, output: str, actors: Sequence[Actor], model: ModelReport) -> None:
    store: StoreWriter | None = None
    failed: dict[int, str] = {}
    if run.config.simulation.method != "none":
        store = StoreWriter.create(f"{output}/influence.zarr", run.manifest(model))
        for part in _all([actor.write.remote(store.url) for actor in actors]):
            failed |= part
    weights, *_ = _all([actor.save.remote(f"{output}/model") for actor in actors])
    with upload_folder(f"{output}/model") as folder:
        run.tokenizer.save_pretrained(folder)
    if store is not None:
        tokenizer = tokenizer_fingerprint(run.tokenizer)
        store.finish(ModelIdentity(type=model.type, weights=weights, tokenizer=tokenizer), failed)
    with fsspec.open(f"{output}/run.yaml", "w", encoding="utf-8") as file:
        file.write(run.config.to_yaml())


def _all(calls: list[Any]) -> list[Any]:
    """The results of one call to each actor; the first failure is raised at once, while others may still wait."""
    pending = list(calls)
    try:
        while pending:
            done, pending = ray.wait(pending)
            ray.get(done)
    except RayTaskError as error:
        if isinstance(error.cause, DistAttrError):
            raise error.cause from None
        # A worker whose partner died fails in the middle of their communication, often before Ray notices the death.
        _raise_if_lost(pending)
        raise
    except RayActorError as error:
        raise _lost(error) from error
    return ray.get(calls)


def _raise_if_lost(calls: list[Any]) -> None:
    ready, _ = ray.wait(calls, num_returns=len(calls), timeout=LOSS_SECONDS) if calls else ([], [])
    for call in ready:
        try:
            ray.get(call)
        except RayActorError as error:
            raise _lost(error) from error
        except RayTaskError:
            continue


def _lost(error: RayActorError) -> WorkerLostError:
    return WorkerLostError(f"a worker of the run died: {error}")
