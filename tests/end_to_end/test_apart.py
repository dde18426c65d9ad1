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
        self._asked = 0

    async def asked(self) -> int:
        return self._asked

    async def _load(self) -> int:
        return int(await self._slow.load.remote())

    async def ask(self) -> int:
        self._asked += 1
        if self._loading is None:
            self._loading = apart(self._load()) if self._outside else asyncio.create_task(self._load())
        return await asyncio.shield(self._loading)


@pytest.mark.parametrize("outside", [True, False])
def test_a_request_that_is_cancelled_takes_nothing_along(outside: bool) -> None:
    remote: Any = ray.remote(num_cpus=0)
    service = remote(Service).remote(remote(Slow).remote(), outside)
    requests = []
    for number in (1, 2):
        requests.append(service.ask.remote())
        while ray.get(service.asked.remote(), timeout=60) < number:
            time.sleep(0.1)
    first, second = requests
    ray.cancel(first)
    with pytest.raises(ray.exceptions.RayError):
        ray.get(first, timeout=60)
    if outside:
        assert ray.get(second, timeout=60) == 7
    else:  # that is why; without this a task of its own would do
        with pytest.raises(ray.exceptions.RayError):
            ray.get(second, timeout=60)
