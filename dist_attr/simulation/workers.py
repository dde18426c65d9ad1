"""The actors of a run as the driver has them: started together, called together, gone together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from dist_attr.cluster import ENVIRONMENT
from dist_attr.errors import DistAttrError, SimulationError, WorkerLostError
from dist_attr.simulation.actor import SimulationActor
from dist_attr.simulation.prepare import PreparedRun
from dist_attr.simulation.reports import ModelReport

LOSS_SECONDS = 20.0  # in which Ray notices that a process is gone

# Ray's types for actors do not know the methods of the class behind them.
Actor = Any


@contextmanager
def started_actors(kind: type[SimulationActor], run: PreparedRun, gpus: int) -> Iterator[list[Actor]]:
    """The actors of a run, each with so many GPUs, when all have found a place; however it ends, they are gone after.

    Raises:
        SimulationError: within `cluster.wait_minutes` some found none.
    """
    remote: Actor = ray.remote(kind).options(num_cpus=1, num_gpus=gpus, runtime_env={"env_vars": ENVIRONMENT})
    task = ray.put(run.task)
    actors = [remote.remote(rank, task) for rank in range(run.config.cluster.workers)]
    try:
        _wait_for_nodes(actors, run.config.cluster.wait_minutes)
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
    call_all(ready)


def build(actors: Sequence[Actor]) -> ModelReport:
    """Let all build the model. Raises SimulationError when it does not come out the same."""
    models: list[ModelReport] = call_all([actor.build.remote() for actor in actors])
    if len({model.fingerprint for model in models}) > 1:
        raise SimulationError(
            "the actors built different initial weights from the same seed; their machines have different software, "
            "or the model path holds different files on them"
        )
    return models[0]


def call_all(calls: list[Any]) -> list[Any]:
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
