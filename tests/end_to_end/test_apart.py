"""What several requests wait for outlives the one that started it, on a real Ray."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import ray

from dist_attr.serving.apart import apart

pytestmark = pytest.mark.usefixtures("cluster")


class Slow:
    """What takes its time."""

    async def load(self) -> int:
        await asyncio.sleep(6)
        return 7


class Service:
    """Starts one load, for all who ask."""

    def __init__(self, slow: Any, outside: bool) -> None:
        self._slow, self._outside = slow, outside
        self._loading: asyncio.Task[int] | None = None

    async def started(self) -> bool:
        return self._loading is not None

    async def _load(self) -> int:
        return int(await self._slow.load.remote())

    async def ask(self) -> int:
        if self._loading is None:
            self._loading = apart(self._load()) if self._outside else asyncio.create_task(self._load())
        return await asyncio.shield(self._loading)


@pytest.mark.parametrize("outside", [True, False])
def test_a_request_that_is_cancelled_takes_nothing_along(outside: bool) -> None:
    remote: Any = ray.remote(num_cpus=0)
    service = remote(Service).remote(remote(Slow).remote(), outside)
    first = service.ask.remote()
    while not ray.get(service.started.remote(), timeout=60):
        pass
    time.sleep(1)
    second = service.ask.remote()
    time.sleep(1)
    ray.cancel(first)
    with pytest.raises(ray.exceptions.RayError):
        ray.get(first, timeout=60)
    if outside:
        assert ray.get(second, timeout=60) == 7
    else:  # that is why; without this a task of its own would do
        with pytest.raises(ray.exceptions.RayError):
            ray.get(second, timeout=60)
