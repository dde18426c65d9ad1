"""What several requests wait for outlives the one that started it, on a real Ray."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import ray

from dist_attr.serving.apart import apart

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote(num_cpus=0)
class Slow:
    async def load(self) -> int:
        await asyncio.sleep(6)
        return 7


@ray.remote(num_cpus=0)
class Service:
    """Starts one load, for all who ask."""

    def __init__(self, slow: Any) -> None:
        self._slow = slow
        self._loading: asyncio.Task[int] | None = None

    async def _load(self) -> int:
        return int(await self._slow.load.remote())

    async def ask(self) -> int:
        if self._loading is None:
            self._loading = apart(self._load())
        return await asyncio.shield(self._loading)


def test_a_request_that_is_cancelled_takes_nothing_along() -> None:
    service = Service.remote(Slow.remote())  # type: ignore[attr-defined]
    first, second = service.ask.remote(), service.ask.remote()
    ray.wait([first], timeout=3)
    ray.cancel(first)
    assert ray.get(second, timeout=60) == 7
