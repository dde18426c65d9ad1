"""Queries of many requests are read out together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dist_attr.config import ReadoutName
from dist_attr.readout import BATCH_TOKENS, Along, EncodedQuery
from dist_attr.serving.apart import apart


class Kind(NamedTuple):
    """Queries of one kind may be read out together."""

    readout: ReadoutName
    rank: int | None


Read = Callable[[Sequence[EncodedQuery], Kind], Awaitable[list[Along]]]


@dataclass(eq=False)
class _Waiting:
    query: EncodedQuery
    kind: Kind
    deadline: float
    found: asyncio.Future[Along]
    since: float = field(default_factory=lambda: asyncio.get_running_loop().time())


class Batcher:
    """First come, first served: with the query that has waited longest go as many of its kind as fill a batch.

    Nobody is waited for: while one batch is read out, the next one gathers. (Serve's own batching puts what does not
    fit behind all others, and knows neither kinds nor deadlines.)

    Args:
        read: reads a batch.
        started: called with the queries of each batch, and the seconds that each waited.
    """

    def __init__(self, read: Read, started: Callable[[list[float]], None] = lambda _: None) -> None:
        self._read, self._started = read, started
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def submit(self, query: EncodedQuery, kind: Kind, deadline: float) -> Along:
        """What is read out of a query.

        Args:
            query: what is asked.
            kind: how.
            deadline: by the event loop's clock; a query that is still waiting then is not read out at all.

        Raises:
            TimeoutError: the deadline has passed.
        """
        if self._task is None or self._task.done():
            self._task = apart(self._run())
        item = _Waiting(query, kind, deadline, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        self._arrived.set()
        try:
            async with asyncio.timeout_at(deadline):
                return await item.found
        finally:
            if item in self._waiting:  # the deadline has passed, or nobody wants the answer any more
                self._waiting.remove(item)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._next()
            if not batch:
                self._arrived.clear()
                continue
            now = asyncio.get_running_loop().time()
            self._started([now - item.since for item in batch])
            await self._read_out(batch)

    def _next(self) -> list[_Waiting]:
        """Takes the next batch from those that wait."""
        batch: list[_Waiting] = []
        longest = 0
        for item in list(self._waiting):
            if batch and item.kind != batch[0].kind:
                continue
            longest_with = max(longest, len(item.query.tokens))
            if batch and (len(batch) + 1) * longest_with > BATCH_TOKENS:
                continue
            batch.append(item)
            longest = longest_with
            self._waiting.remove(item)
        return batch

    async def _read_out(self, batch: list[_Waiting]) -> None:
        try:
            read = await self._read([item.query for item in batch], batch[0].kind)
        except Exception as error:  # noqa: BLE001  whatever it is belongs to whoever asked
            if len(batch) > 1:  # one of them may be to blame, and the others are not
                for item in batch:
                    if not item.found.done():
                        await self._read_out([item])
            elif not batch[0].found.done():
                batch[0].found.set_exception(error)
            return
        for item, along in zip(batch, read, strict=True):
            if not item.found.done():
                item.found.set_result(along)
