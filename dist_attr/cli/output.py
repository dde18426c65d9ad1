"""Standard output for results alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO


@contextmanager
def results_alone() -> Iterator[TextIO]:
    """Around what is computed on Ray, which prints what happens to its workers into the middle of results.

    Yields:
        Standard output; what else is written there meanwhile goes to standard error.
    """
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        yield out
