"""Running a script in one thread, with the allocator's settings that actors have."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from dist_attr.cluster import ENVIRONMENT


def run(main: Callable[..., Any], module: str) -> None:
    """Run a script's command with OMP_NUM_THREADS=1; `module` is its name, as in python -m scripts.dial.

    The process is replaced where its environment is another: glibc and OpenMP read their settings when one starts.
    """
    wanted = {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, **wanted})
    typer.run(main)
