"""What a client asks, what it takes for an answer, and when it asks again.

Design decisions:
- Nothing here touches the network: `client.py` carries requests there and back, once blocking and once for asyncio.
- A request changes nothing at the service, so it is safe to send it again.
- An answer is whole or it is an error: each query has its result, and all results are from the same store.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError

from dist_attr.errors import ConfigError, QueryError
from dist_attr.serving.probe_schemas import ComparisonRequest, ProbeRequest
from dist_attr.serving.schemas import AttributionRequest, CompletionRequest, Problem, StreamedLine

NDJSON = "application/x-ndjson"
AGAIN = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0  # seconds
Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True)
class Service:
    """Who is asked, and how patiently.

    Attributes:
        endpoint: its URL, such as http://127.0.0.1:8000; a path may follow.
        key: bearer key; none where none is asked for.
        timeout: seconds for an answer, with all tries for it.
        retries: how often a request is sent again.

    Raises:
        ConfigError: one of these is out of range, or is nothing that HTTP can carry.
    """

    endpoint: str
    key: str | None = field(repr=False)
    timeout: float
    retries: int

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.endpoint)
        except httpx.InvalidURL as error:
            raise ConfigError(
                f"the endpoint is no URL: {error}; it must be one such as http://127.0.0.1:8000"
            ) from error
        if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
            raise ConfigError(
                "the endpoint must be a URL such as http://127.0.0.1:8000, without a user, a query or a fragment"
            )
        if self.key is not None and not (
            self.key and self.key.isascii() and self.key.isprintable() and " " not in self.key
        ):
            raise ConfigError("the key is empty, or has characters that no key has: give ASCII without spaces")
        if not 0 < self.timeout <= 3600:
            raise ConfigError(f"the timeout is {self.timeout}; give seconds above 0, 3600 at most")
        if self.retries < 0:
            raise ConfigError(f"retries are {self.retries}; give 0 or more")

    def headers(self) -> dict[str, str]:
        """What goes out with every request."""
        return {} if self.key is None else {"authorization": f"Bearer {self.key}"}


@dataclass(frozen=True)
class Ask(Generic[Answer]):
    """One request, and what its answer is to be: `StreamedLine` where it is to be streamed."""

    path: str
    answer: type[Answer]
    body: AttributionRequest | CompletionRequest | ProbeRequest | ComparisonRequest | None = None

    @property
    def streamed(self) -> bool:
        """Whether the answer is taken line by line."""
        return self.answer is StreamedLine

    def request(self, client: httpx.Client | httpx.AsyncClient, tries: Tries) -> httpx.Request:
        """The same for each of its tries, but for the time that is left."""
        return client.build_request(
            "GET" if self.body is None else "POST",
            tries.url,
            # What the body does not say is the service's to decide.
            content=None if self.body is None else self.body.model_dump_json(exclude_unset=True),
            headers={
                "accept": NDJSON if self.streamed else "application/json",
                "x-request-id": tries.number,
                **({} if self.body is None else {"content-type": "application/json"}),
            },
            timeout=tries.left(),
        )

    def parse(self, response: httpx.Response) -> Answer:
        """Raises QueryError where the response is no such answer."""
        return parsed(self.answer, response.content, response.url)


class Tries:
    """The tries of one request.

    Attributes:
        url: where it goes.
        number: its X-Request-ID.
    """

    def __init__(self, service: Service, path: str) -> None:
        self.url, self.number = service.endpoint.rstrip("/") + path, uuid4().hex
        self._service, self._made = service, 0
        self._until = time.monotonic() + service.timeout

    def left(self) -> float:
        """Seconds until the timeout, above 0."""
        return max(self._until - time.monotonic(), 1e-3)

    def pause(self, outcome: httpx.Response | httpx.HTTPError) -> float | None:
        """Seconds to wait before the next try; none after an answer.

        Raises:
            QueryError: the request was refused for good, or its retries or time are used up.
        """
        self._made += 1
        if isinstance(outcome, httpx.Response):
            if outcome.status_code == httpx.codes.OK:
                return None
            hope, told = outcome.status_code in AGAIN, retry_after(outcome.headers)
        else:
            hope, told = isinstance(outcome, httpx.NetworkError | httpx.RemoteProtocolError), None
        pause = backoff(self._made) if told is None else told
        if not hope or self._made > self._service.retries or pause >= self.left():
            raise QueryError(self._failure(outcome)) from (outcome if isinstance(outcome, Exception) else None)
        return pause

    def _failure(self, outcome: httpx.Response | httpx.HTTPError) -> str:
        tried = f" (tried {self._made} times)" if self._made > 1 else ""
        if isinstance(outcome, httpx.Response):
            return refusal(outcome, self.number) + tried
        if isinstance(outcome, httpx.TimeoutException):
            return (
                f"{self.url} gave no answer within {self._service.timeout:g} seconds{tried}; ask less, or wait longer"
            )
        why = str(outcome) or type(outcome).__name__
        return f"no service answers at {self.url}: {why}{tried}; is it running?"


def backoff(made: int) -> float:
    """Seconds to wait after so many tries when nobody says: twice as long each time, and not everybody at once."""
    return random.uniform(0.5, 1.0) * min(FIRST_PAUSE * 2.0 ** (made - 1), LONGEST_PAUSE)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the header Retry-After, a number or a date; none without it."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:  # of "-0000", which is UTC too
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def refusal(response: httpx.Response, number: str) -> str:
    """What a response says that is no answer."""
    hint = "; give the client a key, or set DIST_ATTR_KEY" if response.status_code == httpx.codes.UNAUTHORIZED else ""
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        problem = parsed(Problem, response.content, response.url)
        return f"{problem.detail}{hint} (request {problem.request_id or number})"
    text = " ".join(response.text.split())[:300]
    return f"{response.url} answered {response.status_code}{text and f': {text}'}{hint} (request {number})"


def parsed(kind: type[Answer], content: bytes, url: object) -> Answer:
    """Raises QueryError where the content is not JSON of that kind."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise QueryError(f"what answers at {url} is not a dist_attr service: {reason(error)}") from error


def reason(error: ValidationError) -> str:
    """The first thing that is wrong, in a line."""
    item = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, item["loc"]))
    return f"{where}: {item['msg']}" if where else item["msg"]
