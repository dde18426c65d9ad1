"""The shards of a store, asked as one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dist_attr.config import ServiceConfig
from dist_attr.influence import ReadoutBasis
from dist_attr.readout import Along, EncodedQuery, Sampling, basis_of
from dist_attr.serving.batcher import Kind
from dist_attr.serving.lasting import Lasting
from dist_attr.serving.shard import ReadoutShard, ShardFacts
from dist_attr.store import BasisRows


class Shards:
    """One actor for each part of the rows; see `Lasting`.

    Args:
        config: of the service.
        gpus: of each shard.
        beside: how much of the first one's goes to the prober.
        identity: of the store.
        hold: what the shards hold.
        died: called whenever a shard is found dead.
    """

    def __init__(
        self,
        config: ServiceConfig,
        gpus: float,
        beside: float,
        identity: str,
        hold: Sequence[str],
        died: Callable[[], None] = lambda: None,
    ) -> None:
        self._shards = [
            Lasting(
                "a shard",
                ReadoutShard,
                (config, index, identity, list(hold)),
                bundle=index,
                cpus=config.cpus,
                gpus=gpus - (0 if index else beside),
                died=died,
            )
            for index in range(config.shards)
        ]
        self._next = 0

    def __len__(self) -> int:
        return len(self._shards)

    @property
    def lost(self) -> str | None:
        """Why a shard is gone for good; none as long as Ray starts them again."""
        return next((shard.lost for shard in self._shards if shard.lost is not None), None)

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
        self._next = (self._next + 1) % len(self._shards)
        answer: tuple[EncodedQuery, bool] = await self._shards[self._next].ask("generate", prompt, sampling)
        return answer

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        tasks = [asyncio.create_task(shard.ask(method, *arguments)) for shard in self._shards]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()


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
