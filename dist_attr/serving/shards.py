"""The shards of a store, asked as one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dist_attr.cluster import ENVIRONMENT
from dist_attr.config import ServiceConfig
from dist_attr.errors import UnavailableError
from dist_attr.influence import ReadoutBasis
from dist_attr.readout import Along, EncodedQuery, Sampling, basis_of
from dist_attr.serving.batcher import Kind
from dist_attr.serving.shard import ASIDE, ReadoutShard, ShardFacts
from dist_attr.store import BasisRows

DEATHS = 2  # of shards that one batch may see; the third is the batch's own fault
PAUSE = 0.2  # seconds between looks at a shard that is being started again


class Shards:
    """One actor for each part of the rows. Ray starts a dead one again; what it was asked is asked again.

    Args:
        config: of the service.
        gpus: of each shard.
        identity: of the store.
        hold: what the shards hold.
        died: called whenever a shard is found dead.

    Attributes:
        lost: why a shard is gone for good; none as long as Ray starts them again.
    """

    def __init__(
        self,
        config: ServiceConfig,
        gpus: float,
        identity: str,
        hold: Sequence[str],
        died: Callable[[], None] = lambda: None,
    ) -> None:
        group = get_current_placement_group()
        remote: Any = ray.remote  # its types do not know concurrency groups
        actor = remote(concurrency_groups={ASIDE: 1})(ReadoutShard)
        self._actors = [
            actor.options(
                num_cpus=config.cpus,
                num_gpus=gpus,
                max_restarts=-1,
                runtime_env={"env_vars": ENVIRONMENT},
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, index) if group is not None else "DEFAULT",
            ).remote(config, index, identity, list(hold))
            for index in range(config.shards)
        ]
        self._died, self._next = died, 0
        self.lost: str | None = None

    def __len__(self) -> int:
        return len(self._actors)

    async def facts(self) -> list[ShardFacts]:
        """What each says of itself, once it is up.

        Raises:
            DistAttrError: as the shard's start raised it.
        """
        found: list[ShardFacts] = await self._all("facts")
        return found

    async def read(self, queries: Sequence[EncodedQuery], kind: Kind) -> list[Along]:
        """What is read out of each query along all rows, in their order."""
        parts: list[list[Along]] = await self._all("read", list(queries), kind.readout, kind.rank)
        return [_whole(of_query) for of_query in zip(*parts, strict=True)]

    async def generate(self, prompt: str, sampling: Sampling) -> tuple[EncodedQuery, bool]:
        """What the model answers; shards take turns."""
        self._next = (self._next + 1) % len(self._actors)
        answer: tuple[EncodedQuery, bool] = await self._ask(self._actors[self._next], "generate", prompt, sampling)
        return answer

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        tasks = [asyncio.create_task(self._ask(actor, method, *arguments)) for actor in self._actors]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _ask(self, actor: Any, method: str, *arguments: Any) -> Any:
        """Call a method of a shard; if the shard dies meanwhile, call it again once it is back.

        Raises:
            UnavailableError: it died too often, or is not started again.
            Exception: what the method raised.
        """
        for deaths in range(DEATHS + 1):
            try:
                return await getattr(actor, method).remote(*arguments)
            except RayTaskError as error:
                raise _cause(error) from error
            except RayActorError as error:
                self._died()
                if deaths == DEATHS:
                    raise UnavailableError(f"a shard died {deaths + 1} times while it answered") from error
            await self._back(actor)
        raise AssertionError

    async def _back(self, actor: Any) -> None:
        while True:
            try:
                await actor.facts.remote()
            except ActorDiedError as error:
                self.lost = f"a shard could not be started: {_reason(error)}"
                raise UnavailableError(self.lost) from error
            except RayActorError:
                await asyncio.sleep(PAUSE)
            else:
                return


def whole_basis(facts: Sequence[ShardFacts], energy: float) -> ReadoutBasis | None:
    """The basis whose directions the shards hold; none if they hold none."""
    parts = [of_shard.basis for of_shard in facts]
    if any(part is None for part in parts):
        return None
    rows = [_interleaved([getattr(part, name) for part in parts]) for name in ("mixing", "residual", "token_residual")]
    return basis_of(BasisRows([], rows[0], rows[1], rows[2]), energy)


def _whole(parts: Sequence[Along]) -> Along:
    return Along(_interleaved([part.scores for part in parts]), parts[0].logprobs)


def _interleaved(parts: Sequence[Any]) -> Any:
    """Rows of which part i has numbers i, i + parts, ... in one array."""
    rows = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    for index, part in enumerate(parts):
        rows[index :: len(parts)] = part
    return rows


def _cause(error: RayTaskError) -> BaseException:
    """The error as it was raised in the shard."""
    return error.cause if isinstance(error.cause, Exception) else error


def _reason(error: BaseException) -> str:
    """The last line of a traceback, without the name of our own errors."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^dist_attr\.errors\.\w+: ", "", lines[-1])
