"""What the clients make of streamed answers, whole and broken."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import dist_attr as da
from dist_attr.errors import QueryError
from dist_attr.serving.schemas import StreamedLine
from tests.serving.conftest import QUERIES, SCORES, Call, scores
from tests.serving.misbehaving import Script, Seen, lines, stream


def test_results_are_there_before_the_stream_ends(script: Script) -> None:
    more = threading.Event()
    script.behaviours = [stream(lambda seen: [*lines(seen)[:2], more, *lines(seen)[2:]])]
    with da.Client(script.endpoint) as client:
        results = client.stream(QUERIES)
        found = [next(results)]
        more.set()
        assert scores(found + list(results)) == SCORES
    more.clear()

    async def run() -> list[Any]:
        async with da.AsyncClient(script.endpoint) as client:
            results = client.stream(QUERIES)
            found = [await anext(results)]
            more.set()
            return found + [result async for result in results]

    assert scores(asyncio.run(run())) == SCORES
    assert {seen.headers["accept"] for seen in script.seen} == {"application/x-ndjson"}


def test_a_stream_comes_in_any_pieces(script: Script, call: Call) -> None:
    # JSON may hold these as they are; for Python's own lines they are the end of one.
    queries = [da.Query(completion=text) for text in ("a\u2028b", "\x85", "c\u2029\x1c", "\r\n")]

    def pieces(seen: Seen) -> list[bytes]:
        content = b"\n".join([line.model_dump_json(exclude_unset=True).encode() for line in lines(seen)] + [b""])
        return [content[i : i + 7] for i in range(0, len(content), 7)]

    script.behaviours = [stream(pieces)]
    assert [result.tokens for result in call(script.endpoint, "stream", queries)] == [[q.completion] for q in queries]


PROBLEM = StreamedLine.model_validate(
    {"problem": {"title": "error", "status": 503, "detail": "a shard died", "request_id": "seven"}}
)


@pytest.mark.parametrize(
    ("change", "message", "before"),
    [
        (lambda s: [*lines(s)[:3], ConnectionAbortedError()], "broke off after 2 results: ", 2),
        (lambda s: lines(s)[:-1], "broke off after 3 results: the stream ended", 3),
        (lambda s: [*lines(s)[:2], PROBLEM], r"after 1 results: a shard died \(request seven\)", 1),
        (lambda s: [*lines(s), b'{"done"'], "broke off after 3 results: the stream ended", 3),
        (lambda s: [*lines(s)[:2], *lines(s)[3:]], "not those of an answer", 1),
        (lambda s: [*lines(s)[:2], *lines(s)[1:]], "not those of an answer", 1),
        (lambda s: lines(s)[1:], "not those of an answer", 0),
        (lambda s: [*lines(s)[:3], StreamedLine(done=2)], "answered 2 of 3 queries", 2),
        (lambda s: [*lines(s), lines(s)[1]], "not those of an answer", 3),
        (lambda s: [*lines(s)[:2], b"Internal Server Error\n"], "is not a dist_attr service", 1),
        (lambda s: [], "broke off after 0 results: the stream ended", 0),
    ],
)
def test_a_stream_that_is_not_whole_raises(change: Any, message: str, before: int, script: Script) -> None:
    script.behaviours = [stream(change)]
    found: list[Any] = []
    with da.Client(script.endpoint) as client, pytest.raises(QueryError, match=message):
        for result in client.stream(QUERIES):
            found += [result]

    async def run(found: list[Any]) -> None:
        async with da.AsyncClient(script.endpoint) as client:
            async for result in client.stream(QUERIES):
                found += [result]

    later: list[Any] = []
    with pytest.raises(QueryError, match=message):
        asyncio.run(run(later))
    assert scores(found) == scores(later) == SCORES[:before]
    assert len(script.seen) == 2, "a stream that broke off is not asked for again"
