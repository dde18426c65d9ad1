"""A bucket for each test on the S3 server, and proxies before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.proxy import Proxy
from tests.s3_server import S3Server


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """The URL of an empty bucket."""
    name = f"bucket-{uuid4().hex}"
    s3.files().mkdir(name)
    return f"s3://{name}"


Proxied = Callable[[], tuple[Proxy, dict[str, Any]]]


@pytest.fixture
def proxied(s3: S3Server) -> Iterator[Proxied]:
    """Makes proxies before the server: each with the storage options that lead through it."""
    proxies: list[Proxy] = []

    def make() -> tuple[Proxy, dict[str, Any]]:
        proxies.append(Proxy(s3.endpoint))
        return proxies[-1], {**s3.options, "endpoint_url": proxies[-1].endpoint}

    yield make
    for proxy in proxies:
        proxy.close()
