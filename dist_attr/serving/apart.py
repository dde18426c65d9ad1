"""Work that several requests wait for, and that belongs to none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


def apart(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task outside of the request that happens to start it.

    When a client hangs up, Ray cancels its request and all calls of actors that were made on its behalf, which it knows
    by the context they were made in. Others may be waiting for the same calls.
    """
    return asyncio.create_task(work, context=Context())
