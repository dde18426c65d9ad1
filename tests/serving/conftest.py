"""A server that does what a test tells it, and both clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import dist_attr as da
from tests.serving.misbehaving import Script, served

QUERIES = [da.Query(prompt="the", completion="x" * length) for length in (3, 1, 2)]
SCORES = [3.0, 1.0, 2.0]
Call = Callable[..., Any]


def scores(results: Any) -> list[float]:
    return [result.sources[0].score for result in results]


@pytest.fixture(scope="module")
def server() -> Iterator[Script]:
    with served(Script()) as script:
        yield script


@pytest.fixture
def script(server: Script, monkeypatch: pytest.MonkeyPatch) -> Script:
    monkeypatch.delenv("DIST_ATTR_KEY", raising=False)
    server.behaviours, server.seen = [], []
    return server


@pytest.fixture(params=["Client", "AsyncClient"])
def call(request: pytest.FixtureRequest) -> Call:
    """One method of one of the two clients, called by its name; streams come as lists."""

    def blocking(
        endpoint: str, method: str, *arguments: Any, client: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        with da.Client(endpoint, **client or {}) as opened:
            found = getattr(opened, method)(*arguments, **options)
            return list(found) if method == "stream" else found

    async def awaiting(
        endpoint: str, method: str, *arguments: Any, client: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        async with da.AsyncClient(endpoint, **client or {}) as opened:
            found = getattr(opened, method)(*arguments, **options)
            return [each async for each in found] if method == "stream" else await found

    if request.param == "Client":
        return blocking
    return lambda *arguments, **options: asyncio.run(awaiting(*arguments, **options))
