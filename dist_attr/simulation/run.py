"""The driver: it prepares a run, leads the actors through it in strides, and declares the result complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec
import ray
from ray.exceptions import RayActorError, RayTaskError

from dist_attr.cluster import ENVIRONMENT, connect, gpus_per_actor
from dist_attr.config import RunConfig, absolute_url
from dist_attr.corpus import tokenizer_fingerprint
from dist_attr.errors import ConfigError, DistAttrError, SimulationError
from dist_attr.models import upload_folder
from dist_attr.simulation.actor import ActorReport, ModelReport, SimulationActor
from dist_attr.simulation.prepare import PreparedRun, prepare
from dist_attr.store import InfluenceStore, ModelIdentity, StoreWriter, open_store

STRIDE_SECONDS = 1.0


@dataclass(frozen=True)
class StrideReport:
    """Where a run stands.

    Attributes:
        step: steps done, of `steps`.
        loss: of the last step over the global batch, nats per token.
        drift: of the simulation from DeepSpeed's parameters at the last check, 0 before the first.
        replica_steps_per_second: sources simulated times steps, in the last stride.
    """

    step: int
    steps: int
    loss: float
    drift: float
    replica_steps_per_second: float


Progress = Callable[[StrideReport], None]
# Ray's types for actors do not know the methods of the class behind them.
Actor = Any


def simulate(config: RunConfig, *, overwrite: bool = False, progress: Progress | None = None) -> InfluenceStore | None:
    """Train a model under DeepSpeed and simulate the influence of every source beside it.

    Args:
        config: the whole run. `config.output` will hold run.yaml, model/ and, last of all, a complete influence.zarr.
        overwrite: replace a finished run at that place; what an interrupted one left is always replaced.
        progress: called after every stride of about a second.

    Returns:
        The influence store; None with `simulation.method: none`, which only trains.

    Raises:
        DistAttrError: something about the run is wrong; nothing that looks finished is left behind.
    """
    run = prepare(config)
    output = absolute_url(config.output)
    _clear_output(output, overwrite)
    connect()
    with _actors(run) as actors:
        model = _build(actors)
        store: StoreWriter | None = None
        if config.simulation.method != "none":
            store = StoreWriter.create(f"{output}/influence.zarr", run.manifest(model))
        _train(run, actors, progress or (lambda _: None))
        _write_result(run, output, actors, model, store)
    return None if store is None else open_store(store.url)


def _clear_output(output: str, overwrite: bool) -> None:
    filesystem, path = fsspec.core.url_to_fs(output)
    if "memory" in str(filesystem.protocol):
        raise ConfigError(
            f"output {output}: memory:// belongs to one process and the actors are others; use a directory"
        )
    if filesystem.exists(f"{path}/run.yaml") and not overwrite:
        raise ConfigError(f"output {output} holds a finished run; choose another place, or say --overwrite")
    # run.yaml goes first: without it, nothing that is left looks finished.
    for part in ("run.yaml", "influence.zarr", "model"):
        if filesystem.exists(f"{path}/{part}"):
            filesystem.rm(f"{path}/{part}", recursive=True)


@contextmanager
def _actors(run: PreparedRun) -> Iterator[list[Actor]]:
    """The actors of a run; however it ends, they are gone afterwards."""
    workers = run.config.cluster.workers
    remote: Actor = ray.remote(SimulationActor).options(
        num_cpus=1, num_gpus=gpus_per_actor(workers), runtime_env={"env_vars": ENVIRONMENT}
    )
    task = ray.put(run.task)
    actors = [remote.remote(rank, task) for rank in range(workers)]
    try:
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor)


def _build(actors: Sequence[Actor]) -> ModelReport:
    models: list[ModelReport] = _all([actor.build.remote() for actor in actors])
    if len({model.fingerprint for model in models}) > 1:
        raise SimulationError(
            "the actors built different initial weights from the same seed; their machines have different software, "
            "or the model path holds different files on them"
        )
    (address,) = _all([actors[0].address.remote()])
    _all([actor.join.remote(address) for actor in actors])
    return models[0]


def _train(run: PreparedRun, actors: Sequence[Actor], progress: Progress) -> None:
    steps, done, stride, drift = run.config.training.steps, 0, 1, 0.0
    simulated = len(run.task.corpus.sources) if run.config.simulation.method != "none" else 0
    while done < steps:
        started = time.monotonic()
        reports: list[ActorReport] = _all([actor.advance.remote(stride) for actor in actors])
        seconds = time.monotonic() - started
        done += stride
        drift = max(report.drift for report in reports) or drift
        loss = sum(report.loss for report in reports)
        progress(StrideReport(done, steps, loss, drift, simulated * stride / seconds))
        stride = max(1, min(steps - done, 2 * stride, round(stride * STRIDE_SECONDS / seconds)))


def _write_result(
    run: PreparedRun, output: str, actors: Sequence[Actor], model: ModelReport, store: StoreWriter | None
) -> None:
    if store is not None:
        _all([actor.write.remote(store.url) for actor in actors])
    weights, *_ = _all([actor.save.remote(f"{output}/model") for actor in actors])
    with upload_folder(f"{output}/model") as folder:
        run.tokenizer.save_pretrained(folder)
    if store is not None:
        store.finish(ModelIdentity(type=model.type, weights=weights, tokenizer=tokenizer_fingerprint(run.tokenizer)))
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
        raise
    except RayActorError as error:
        raise SimulationError(f"a worker of the run died, so the run was stopped: {error}") from error
    return ray.get(calls)
