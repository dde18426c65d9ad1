"""What stands before every route: request ids, keys, limits of the body, and what is counted."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import time
import uuid
from http import HTTPStatus
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dist_attr.errors import ConfigError
from dist_attr.serving.metrics import IngressMetrics
from dist_attr.serving.problems import answer, problem, problem_of

KEYS = "DIST_ATTR_KEYS"
GUARDED = ("/v1/", "/metrics")  # what a key is asked for
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
BODY_SECONDS = 30.0  # a client that is slower than that has no use for an answer
SHORTEST_KEY = 16


class Guard:
    """ASGI middleware.

    Args:
        app: what it stands before.
        keys: digests of the keys, from `read_keys`; none is asked for if there are none.
        most_bytes: of a body.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, keys: list[bytes], most_bytes: int, metrics: IngressMetrics) -> None:
        self._app, self._keys, self._most, self._metrics = app, keys, most_bytes, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, started = Headers(scope=scope), time.monotonic()
        given = headers.get("x-request-id", "")  # Serve's proxy makes one where the client did not, and sends it back
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        sent: list[int] = []

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent.append(message["status"])
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            if refusal is None:
                body = await self._body(headers, receive)
                refusal = body if isinstance(body, tuple) else None
            if refusal is not None:
                extra = {"www-authenticate": "Bearer"} if refusal[0] is HTTPStatus.UNAUTHORIZED else {}
                await answer(problem(*refusal, request_id), extra)(scope, receive, counted)
            else:
                assert isinstance(body, bytes)
                await self._app(scope, _replayed(body, receive), counted)
        except Exception as error:
            found = problem_of(error, request_id)
            if sent:  # too late for another answer: the connection is cut, which nobody takes for a whole one
                raise
            await answer(*found)(scope, receive, counted)
        finally:
            # Only routes that exist are labels: anybody may ask for any path.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(sent[0] if sent else 499)).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - started)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[HTTPStatus, str] | None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not self._keys or not path.startswith(GUARDED):
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        digest = _digest(key.strip())
        # Every key is compared, each in constant time: how long it takes tells nothing.
        known = sum(hmac.compare_digest(digest, own) for own in self._keys)
        if scheme.lower() == "bearer" and known:
            return None
        return HTTPStatus.UNAUTHORIZED, "a key is needed: send it as the header Authorization: Bearer KEY"

    async def _body(self, headers: Headers, receive: Receive) -> bytes | tuple[HTTPStatus, str]:
        large = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {self._most:,} bytes; split the request"
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._most:
            return large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > self._most:
                        return large
                    if message["type"] == "http.disconnect":
                        return HTTPStatus.BAD_REQUEST, "the connection ended before the body did"
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            return HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive within {BODY_SECONDS:.0f} seconds"


def read_keys(file: str | None) -> list[bytes]:
    """Digests of the keys in a file, or else in the environment; none if there are neither.

    Raises:
        ConfigError: the file cannot be read, holds none, or one is short enough to be guessed.
    """
    if file is not None:
        try:
            keys = Path(file).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the file of keys, {file}, cannot be read: {type(error).__name__}") from error
    else:
        keys = os.environ.get(KEYS, "").split(",")
    keys = [key.strip() for key in keys if key.strip()]
    if file is not None and not keys:
        raise ConfigError(f"the file of keys, {file}, holds none; write one a line, or leave the option out")
    if any(len(key) < SHORTEST_KEY for key in keys):
        raise ConfigError(f"a key has fewer than {SHORTEST_KEY} characters; make one with: openssl rand -hex 32")
    return [_digest(key) for key in keys]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body at once, then whatever comes after it."""
    done = False

    async def replay() -> Message:
        nonlocal done
        if done:
            return await receive()
        done = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
