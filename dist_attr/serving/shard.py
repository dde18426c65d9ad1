"""A readout shard: the model, and the tangents of every N-th source."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from ray import serve

from dist_attr.config import ReadoutName
from dist_attr.readout import Attribution, Attributor, Query
from dist_attr.store import open_store


@serve.deployment(health_check_period_s=5, graceful_shutdown_timeout_s=20)
class ReadoutShard:
    """Sources `index`, `index + shards`, ... of a store."""

    def __init__(self, store: str, index: int, shards: int) -> None:
        opened = open_store(store)
        self._identity = opened.manifest.identity
        self._attributor = Attributor(opened, rows=range(index, len(opened.sources), shards))
        # One thread: a functional call swaps the parameters of the module while it runs.
        self._executor = ThreadPoolExecutor(max_workers=1)

    async def attribute(self, identity: str, queries: list[Query], readout: ReadoutName) -> Attribution:
        """Scores of this shard's sources, if this is the shard of that store."""
        if identity != self._identity:
            raise RuntimeError(f"this shard holds store {self._identity}, not {identity}")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._attributor.attribute, queries, readout)

    async def ready(self) -> str:
        """The identity of the store this shard holds."""
        return self._identity
