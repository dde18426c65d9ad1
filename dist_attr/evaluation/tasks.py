"""Many small results from Ray tasks, each kept as soon as it is there.

Design decisions:
- As many tasks as workers are under way, never all: what is cancelled at Ctrl-C is little, and nothing waits in Ray's
  queue that another job could use.
- What all tasks read (a packed corpus, a model) is put into the object store once.
- Ray starts a task again whose process or node died; an exception in it is a defect or a user's error, and ends all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError

from dist_attr.cluster import ENVIRONMENT, connect, gpus_per_actor
from dist_attr.errors import DistAttrError, SimulationError
from dist_attr.evaluation.kept import Kept


@dataclass(frozen=True)
class Workers:
    """Where tasks run.

    Attributes:
        number: tasks under way at once, each on one CPU, and one GPU when the cluster has that many.
        most_failures: how often a task is started again after its process or node died.
    """

    number: int = 2
    most_failures: int = 3


Done = Callable[[int, NDArray[Any]], object]


def gathered(
    function: Callable[..., NDArray[Any]],
    shared: Any,
    calls: Sequence[tuple[Any, ...]],
    *,
    names: Sequence[str] = (),
    kept: Kept | None = None,
    workers: Workers | None = None,
    on_done: Done = lambda *_: None,
) -> list[NDArray[Any]]:
    """`function(shared, *call)` of every call.

    Args:
        function: of the module level.
        shared: its first argument, sent to every node once.
        calls: its other arguments.
        names: digests that the results are kept by; needed with `kept`.
        kept: where results are looked for before they are computed, and written after.
        workers: where the tasks run.
        on_done: called with the number of a call and its result, first for those that were kept. What it raises ends
            the others.

    Raises:
        SimulationError: a task died too often.
        DistAttrError: as a task raises it, or too few CPUs.
    """
    workers = workers or Workers()
    found = {number: result for number, name in enumerate(names) if kept and (result := kept.get(name)) is not None}
    for number, result in found.items():
        on_done(number, result)
    waiting = [number for number in range(len(calls)) if number not in found]
    if not waiting:
        return [found[number] for number in range(len(calls))]
    connect()
    # Ray's types for tasks do not know the function behind them.
    remote: Any = ray.remote(function).options(
        num_cpus=1,
        num_gpus=gpus_per_actor(workers.number),
        max_retries=workers.most_failures,
        runtime_env={"env_vars": {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}},
    )
    reference, running = ray.put(shared), dict[Any, int]()
    try:
        while waiting or running:
            while waiting and len(running) < workers.number:
                number = waiting.pop(0)
                running[remote.remote(reference, *calls[number])] = number
            (done,), _ = ray.wait(list(running))
            result = _result(done, workers)
            found[number := running.pop(done)] = result
            if kept is not None:
                kept.put(names[number], result)
            on_done(number, result)
    finally:
        for call in running:
            ray.cancel(call, force=True)
    return [found[number] for number in range(len(calls))]


def _result(call: Any, workers: Workers) -> NDArray[Any]:
    try:
        result: NDArray[Any] = ray.get(call)
    except RayTaskError as error:
        if isinstance(error.cause, DistAttrError):
            raise error.cause from None
        raise
    except RayError as error:
        raise SimulationError(
            f"a retraining died {workers.most_failures + 1} times (cluster.max_failures and once more): {error}. What "
            "is finished is kept: give it more memory, or fewer workers, and start the same command again"
        ) from error
    return result
