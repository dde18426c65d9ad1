"""What several requests wait for outlives the one that started it, on a real Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from dist_attr.serving.apart import apart


@pytest.fixture
def local() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Slow:
    async def load(self) -> int:
        await asyncio.sleep(6)
        return 7


@ray.remote(num_cpus=0)
class Service:
    """Starts one load, for all who ask."""

    def __init__(self, slow: Any, outside: bool) -> None:
        self._slow, self._outside = slow, outside
        self._loading: asyncio.Task[int] | None = None

    async def _load(self) -> int:
        return int(await self._slow.load.remote())

    async def ask(self) -> int:
        if self._loading is None:
            self._loading = apart(self._load()) if self._outside else asyncio.create_task(self._load())
        return await asyncio.shield(self._loading)


@pytest.mark.parametrize("outside", [True, False])
def test_a_request_that_is_cancelled_takes_nothing_along(local: None, outside: bool) -> None:
    service = Service.remote(Slow.remote(), outside)  # type: ignore[attr-defined]
    ray.get(ray.remote(lambda: None).remote())  # Ray is up
    first, second = service.ask.remote(), service.ask.remote()
    ray.wait([first], timeout=3)
    ray.cancel(first)
    if outside:
        assert ray.get(second, timeout=60) == 7
    else:  # why it is needed; a Ray that no longer does this needs no `apart`
        with pytest.raises(ray.exceptions.RayError):
            ray.get(second, timeout=60)
