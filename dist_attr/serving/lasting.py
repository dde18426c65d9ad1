"""Actors that outlive their deaths: Ray starts a dead one again, and what it was asked is asked again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dist_attr.cluster import ENVIRONMENT
from dist_attr.errors import UnavailableError

DEATHS = 2  # that one question may see; the third is the question's own fault
PAUSE = 0.2  # seconds between looks at an actor that is being started again
ASIDE = "aside"  # the thread of an actor that answers beside the one that computes


class Lasting:
    """One actor of a copy, in the copy's placement group. Its class has a method `facts`, in the group `ASIDE`.

    Args:
        name: what it is called in errors: "a shard".
        kind: its class.
        arguments: of its constructor.
        bundle: of the placement group.
        cpus: that Ray counts for it.
        gpus: likewise.
        died: called whenever it is found dead.

    Attributes:
        lost: why it is gone for good; none as long as Ray starts it again.
    """

    def __init__(
        self,
        name: str,
        kind: type,
        arguments: tuple[Any, ...],
        *,
        bundle: int,
        cpus: float,
        gpus: float,
        died: Callable[[], None] = lambda: None,
    ) -> None:
        group = get_current_placement_group()
        remote: Any = ray.remote  # its types do not know concurrency groups
        self._actor = (
            remote(concurrency_groups={ASIDE: 1})(kind)
            .options(
                num_cpus=cpus,
                num_gpus=gpus,
                max_restarts=-1,
                runtime_env={"env_vars": ENVIRONMENT},
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle) if group is not None else "DEFAULT",
            )
            .remote(*arguments)
        )
        self._name, self._died = name, died
        self.lost: str | None = None

    async def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method; if the actor dies meanwhile, call it again once it is back.

        Raises:
            UnavailableError: it died too often, or is not started again.
            Exception: what the method raised.
        """
        for deaths in range(DEATHS + 1):
            try:
                return await getattr(self._actor, method).remote(*arguments)
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, Exception) else error) from error
            except RayActorError as error:
                self._died()
                if deaths == DEATHS:
                    raise UnavailableError(f"{self._name} died {deaths + 1} times while it answered") from error
            await self._back()
        raise AssertionError

    async def _back(self) -> None:
        while True:
            try:
                await self._actor.facts.remote()
            except ActorDiedError as error:
                self.lost = f"{self._name} could not be started: {_reason(error)}"
                raise UnavailableError(self.lost) from error
            except RayActorError:
                await asyncio.sleep(PAUSE)
            else:
                return


def _reason(error: BaseException) -> str:
    """The last line of a traceback, without the name of our own errors."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^dist_attr\.errors\.\w+: ", "", lines[-1])
