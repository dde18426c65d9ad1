"""Ctrl-C in a command: one line that says how to go on, and exit code 130."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def interruptible(then: str) -> Iterator[None]:
    """Around what may take long.

    Args:
        then: what is there now, and how to go on.
    """
    try:
        yield
    except KeyboardInterrupt:
        # Reads and writes that are cut short would be complained about one by one.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        typer.echo(f"interrupted: {then}", err=True)
        raise typer.Exit(130) from None
