"""Queries of many requests in one batch: who goes with whom, who waits, and who is to blame."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from dist_attr.readout import BATCH_TOKENS, Along, EncodedQuery
from dist_attr.serving.batcher import Batcher, Kind

EXACT, RANKED = Kind("linear", None), Kind("linear", 3)
SOON = 30.0


def query(name: int, tokens: int = 8) -> EncodedQuery:
    return EncodedQuery((name,) * tokens, 1)


class Reader:
    """Reads batches slowly, and keeps what they were."""

    def __init__(self, poison: int | None = None) -> None:
        self.batches: list[tuple[Kind, list[int]]] = []
        self._poison = poison

    async def __call__(self, queries: Sequence[EncodedQuery], kind: Kind) -> list[Along]:
        names = [of.tokens[0] for of in queries]
        self.batches.append((kind, names))
        await asyncio.sleep(0.05)
        if self._poison in names:
            raise MemoryError(f"{self._poison}")
        return [Along(np.full((1, 1), name, np.float32), np.zeros(1, np.float32)) for name in names]


async def submitted(
    batcher: Batcher, asked: Sequence[tuple[EncodedQuery, Kind]], seconds: float = SOON
) -> list[object]:
    deadline = asyncio.get_running_loop().time() + seconds
    calls = [batcher.submit(of, kind, deadline) for of, kind in asked]
    found = await asyncio.gather(*calls, return_exceptions=True)
    return [of.scores.item() if isinstance(of, Along) else of for of in found]


def test_each_gets_its_own_answer_and_kinds_do_not_mix() -> None:
    reader = Reader()
    asked = [(query(n), RANKED if n % 3 else EXACT) for n in range(20)]
    assert asyncio.run(submitted(Batcher(reader), asked)) == list(range(20))
    assert all(kind == (RANKED if n % 3 else EXACT) for kind, names in reader.batches for n in names)
    assert len(reader.batches) <= 3


def test_a_batch_is_no_larger_than_it_may_be_and_what_does_not_fit_goes_first_next_time() -> None:
    reader = Reader()
    long = BATCH_TOKENS // 2 + 1
    asked = [(query(0), EXACT), (query(1, long), EXACT), *((query(n), EXACT) for n in range(2, 40))]
    assert asyncio.run(submitted(Batcher(reader), asked)) == list(range(40))
    assert [1] in [names[:1] for _, names in reader.batches[:2]]
    assert sorted(n for _, names in reader.batches for n in names) == list(range(40))
    for _, names in reader.batches:
        longest = max(long if n == 1 else 8 for n in names)
        assert len(names) == 1 or len(names) * longest <= BATCH_TOKENS


def test_a_query_larger_than_a_batch_goes_alone() -> None:
    assert asyncio.run(submitted(Batcher(Reader()), [(query(7, 3 * BATCH_TOKENS), EXACT)])) == [7]


def test_whoever_is_to_blame_fails_alone() -> None:
    reader = Reader(poison=2)
    found = asyncio.run(submitted(Batcher(reader), [(query(n), EXACT) for n in range(5)]))
    assert isinstance(found[2], MemoryError)
    assert [of for n, of in enumerate(found) if n != 2] == [0, 1, 3, 4]


def test_after_its_deadline_a_query_is_not_read_out() -> None:
    async def run() -> Reader:
        batcher, reader = Batcher(reader := Reader()), reader
        first = asyncio.create_task(batcher.submit(query(0), EXACT, asyncio.get_running_loop().time() + SOON))
        await asyncio.sleep(0.01)  # it is being read out
        with pytest.raises(TimeoutError):
            await batcher.submit(query(1), EXACT, asyncio.get_running_loop().time() + 0.01)
        await first
        await asyncio.sleep(0.1)
        assert len(batcher) == 0
        return reader

    assert asyncio.run(run()).batches == [(EXACT, [0])]
