"""An HTTP server that answers by a script, for what a service should never do."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from dist_attr.serving.schemas import (
    AnswerFacts,
    AttributedQuery,
    AttributionResponse,
    Fidelity,
    SourceScore,
    StoreIdentity,
    StreamedLine,
)


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    when: float


Behaviour = Callable[[Seen], Awaitable[Response]]


@dataclass
class Script:
    """What is answered, the last of it again and again, and what was asked."""

    behaviours: list[Behaviour] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    endpoint: str = ""

    async def answer(self, request: Request) -> Response:
        content = await request.body()
        body = json.loads(content) if content else None
        self.seen.append(Seen(request.method, request.url.path, dict(request.headers), body, time.monotonic()))
        behaviour = self.behaviours[0] if len(self.behaviours) == 1 else self.behaviours.pop(0)
        return await behaviour(self.seen[-1])


@contextmanager
def served(script: Script, port: int = 0) -> Iterator[Script]:
    """The script behind a real server on the loopback interface."""
    app = FastAPI()
    app.api_route("/{path:path}", methods=["GET", "POST"], response_model=None)(script.answer)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    script.endpoint = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield script
    finally:
        server.should_exit = True
        thread.join()


def facts(identity: str = "one") -> AnswerFacts:
    store = StoreIdentity(identity=identity, created="", method="trajectory", model="", tokenizer="", corpus="")
    trust = Fidelity(measured=[], coverage=1.0, codec="float32", precision="fp32", precision_error=None)
    return AnswerFacts(store=store, readout="linear", fidelity=trust)


def result(query: dict[str, Any]) -> AttributedQuery:
    """The score is the completion's length, so that results in the wrong place are found."""
    score = SourceScore(source="ant", score=float(len(query["completion"])))
    return AttributedQuery(tokens=[query["completion"]], token_logprobs=[-1.0], logprob=-1.0, sources=[score])


def whole(identity: str = "one", lost: int = 0) -> Behaviour:
    """All results but the last few, at once."""

    async def answer(seen: Seen) -> Response:
        results = [result(query) for query in seen.body["queries"]][: len(seen.body["queries"]) - lost]
        values = {name: getattr(facts(identity), name) for name in AnswerFacts.model_fields}
        return JSONResponse(AttributionResponse(**values, results=results).model_dump(mode="json"))

    return answer


def refuse(status: int, detail: str = "", headers: dict[str, str] | None = None) -> Behaviour:
    """An error, as problem+json where it has a detail."""

    async def answer(_: Seen) -> Response:
        if not detail:
            return Response("upstream\n  is away", status, headers, "text/plain")
        problem = {"title": "error", "status": status, "detail": detail, "request_id": "of-the-service"}
        return JSONResponse(problem, status, headers, "application/problem+json")

    return answer


def say(content: bytes, kind: str = "application/json") -> Behaviour:
    """Whatever it is, as an answer."""

    async def answer(_: Seen) -> Response:
        return Response(content, media_type=kind)

    return answer


def lines(seen: Seen, identity: str = "one") -> list[StreamedLine]:
    """What a streamed answer consists of."""
    results = [result(query) for query in seen.body["queries"]]
    return [
        StreamedLine(facts=facts(identity)),
        *(StreamedLine(index=i, result=each) for i, each in enumerate(results)),
        StreamedLine(done=len(results)),
    ]


def stream(change: Callable[[Seen], Sequence[StreamedLine | bytes | threading.Event | Exception]] = lines) -> Behaviour:
    """The lines one by one; at an event it waits for it, at an exception the connection breaks."""

    async def answer(seen: Seen) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for line in change(seen):
                if isinstance(line, threading.Event):
                    await asyncio.to_thread(line.wait, 30)
                elif isinstance(line, Exception):
                    raise line
                else:
                    yield line if isinstance(line, bytes) else line.model_dump_json(exclude_unset=True).encode() + b"\n"

        return StreamingResponse(pieces(), media_type="application/x-ndjson")

    return answer
