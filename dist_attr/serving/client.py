"""Asking a running service, from Python: `Client`, and `AsyncClient` for asyncio.

Design decisions:
- The two differ in how they wait and in nothing else; what they say and believe is in `batches.py` and `exchange.py`.
- A connection that fails, 429 and 503 are tried again, after what Retry-After says.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, Unpack

import httpx

from dist_attr.serving.batches import (
    ComparisonOptions,
    CompletionOptions,
    ProbingOptions,
    Queries,
    ReadoutOptions,
    StreamReader,
    attributions,
    comparison,
    completion,
    joined,
    probes,
)
from dist_attr.serving.exchange import Answer, Ask, Service, Tries
from dist_attr.serving.probe_schemas import ComparisonResponse, ProbeResponse
from dist_attr.serving.schemas import (
    AttributedQuery,
    AttributionResponse,
    CompletionResponse,
    Health,
    SourcesResponse,
    StoreResponse,
    StreamedLine,
)

KEY = "DIST_ATTR_KEY"
SOURCES = Ask("/v1/sources", SourcesResponse)
STORE = Ask("/v1/store", StoreResponse)
READY = Ask("/readyz", Health)


def _service(endpoint: str, key: str | None, timeout: float, retries: int) -> Service:
    found = os.environ.get(KEY, "").strip() or None if key is None else key
    return Service(endpoint, found, timeout, retries)


class Client:
    """A service, as Python functions. Threads may share it; `close` or a `with` block ends its connections.

    Args:
        endpoint: URL of the service, such as http://127.0.0.1:8000.
        key: bearer key; by default that in the environment variable DIST_ATTR_KEY, if there is one.
        timeout: seconds for an answer, retries included; of a stream, for each next part of it.
        retries: how often a request is sent again when the service is not reached, busy (429) or not ready (503).

    Raises:
        ConfigError: the endpoint is no such URL, or another argument is out of range.

    Each method raises QueryError when there is no answer, or none that is whole: the service is not reached in time, it
    refuses the request, or what answers is not this service.
    """

    def __init__(self, endpoint: str, *, key: str | None = None, timeout: float = 300.0, retries: int = 5) -> None:
        self._service = _service(endpoint, key, timeout, retries)
        self._http = httpx.Client(headers=self._service.headers())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its connections."""
        self._http.close()

    def attribute(self, queries: Queries, **options: Unpack[ReadoutOptions]) -> AttributionResponse:
        """Scores of one query or of any number, in their order. For the options see `ReadoutOptions`."""
        asks = list(attributions(queries, options, self._service.timeout, AttributionResponse))
        return joined(asks, [self._answer(ask) for ask in asks])

    def stream(self, queries: Queries, **options: Unpack[ReadoutOptions]) -> Iterator[AttributedQuery]:
        """The same, each result as soon as it is there. Results that came before an error are right, but not all."""
        facts = None
        for ask in attributions(queries, options, self._service.timeout, StreamedLine):
            with self._opened(ask) as response:
                reader = StreamReader(ask, response.url, facts)
                try:
                    for piece in response.iter_bytes():
                        yield from reader.feed(piece)
                except httpx.HTTPError as error:
                    raise reader.broken(error) from error
                reader.end()
                facts = reader.facts

    def complete(self, prompt: str, **options: Unpack[CompletionOptions]) -> CompletionResponse:
        """The model's answer to a prompt, and its attribution. For the options see `CompletionOptions`."""
        return self._answer(completion(prompt, options, self._service.timeout))

    def probe(self, queries: Queries, **options: Unpack[ProbingOptions]) -> ProbeResponse:
        """What the sources' documents do to completions when they stand in the prompt.

        One query, or as many as a request may have: 256, and no more work than the service takes. For the options see
        `ProbingOptions`.
        """
        return self._answer(probes(queries, options, self._service.timeout))

    def compare(self, queries: Queries, **options: Unpack[ComparisonOptions]) -> ComparisonResponse:
        """Influence and in-context probing of the same queries, and how far they agree; as many as for `probe`.

        For the options see `ComparisonOptions`.
        """
        return self._answer(comparison(queries, options, self._service.timeout))

    def sources(self) -> SourcesResponse:
        """The sources that can be credited."""
        return self._answer(SOURCES)

    def store(self) -> StoreResponse:
        """What is served, and how far it can be trusted."""
        return self._answer(STORE)

    def ready(self) -> Health:
        """Whether the service can answer; waits for it as long as the retries last."""
        return self._answer(READY)

    def _answer(self, ask: Ask[Answer]) -> Answer:
        with self._opened(ask) as response:
            return ask.parse(response)

    @contextmanager
    def _opened(self, ask: Ask[Any]) -> Iterator[httpx.Response]:
        tries = Tries(self._service, ask.path)
        while True:
            outcome: httpx.Response | httpx.HTTPError
            try:
                outcome = response = self._http.send(ask.request(self._http, tries), stream=True)
                if not (ask.streamed and response.is_success):
                    response.read()
            except httpx.HTTPError as error:
                outcome = error
            pause = tries.pause(outcome)
            if pause is None:
                break
            time.sleep(pause)
        try:
            yield response
        finally:
            response.close()


class AsyncClient:
    """`Client` for asyncio: the same arguments and methods, to be awaited; `aclose` or `async with` ends it."""

    def __init__(self, endpoint: str, *, key: str | None = None, timeout: float = 300.0, retries: int = 5) -> None:
        self._service = _service(endpoint, key, timeout, retries)
        self._http = httpx.AsyncClient(headers=self._service.headers())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End its connections."""
        await self._http.aclose()

    async def attribute(self, queries: Queries, **options: Unpack[ReadoutOptions]) -> AttributionResponse:
        """See `Client.attribute`."""
        asks = list(attributions(queries, options, self._service.timeout, AttributionResponse))
        return joined(asks, [await self._answer(ask) for ask in asks])

    async def stream(self, queries: Queries, **options: Unpack[ReadoutOptions]) -> AsyncIterator[AttributedQuery]:
        """See `Client.stream`; for `async for`."""
        facts = None
        for ask in attributions(queries, options, self._service.timeout, StreamedLine):
            async with self._opened(ask) as response:
                reader = StreamReader(ask, response.url, facts)
                try:
                    async for piece in response.aiter_bytes():
                        for result in reader.feed(piece):
                            yield result
                except httpx.HTTPError as error:
                    raise reader.broken(error) from error
                reader.end()
                facts = reader.facts

    async def complete(self, prompt: str, **options: Unpack[CompletionOptions]) -> CompletionResponse:
        """See `Client.complete`."""
        return await self._answer(completion(prompt, options, self._service.timeout))

    async def probe(self, queries: Queries, **options: Unpack[ProbingOptions]) -> ProbeResponse:
        """See `Client.probe`."""
        return await self._answer(probes(queries, options, self._service.timeout))

    async def compare(self, queries: Queries, **options: Unpack[ComparisonOptions]) -> ComparisonResponse:
        """See `Client.compare`."""
        return await self._answer(comparison(queries, options, self._service.timeout))

    async def sources(self) -> SourcesResponse:
        """See `Client.sources`."""
        return await self._answer(SOURCES)

    async def store(self) -> StoreResponse:
        """See `Client.store`."""
        return await self._answer(STORE)

    async def ready(self) -> Health:
        """See `Client.ready`."""
        return await self._answer(READY)

    async def _answer(self, ask: Ask[Answer]) -> Answer:
        async with self._opened(ask) as response:
            return ask.parse(response)

    @asynccontextmanager
    async def _opened(self, ask: Ask[Any]) -> AsyncIterator[httpx.Response]:
        tries = Tries(self._service, ask.path)
        while True:
            outcome: httpx.Response | httpx.HTTPError
            try:
                outcome = response = await self._http.send(ask.request(self._http, tries), stream=True)
                if not (ask.streamed and response.is_success):
                    await response.aread()
            except httpx.HTTPError as error:
                outcome = error
            pause = tries.pause(outcome)
            if pause is None:
                break
            await asyncio.sleep(pause)
        try:
            yield response
        finally:
            await response.aclose()
