"""`dist-attr demo`: the whole path on a built-in corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="folder for the run, replaced if it holds an earlier demo")] = Path(
        "runs/demo"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the service")] = 8000,
) -> None:
    """Train a small model on presidents' speeches, simulate, serve, and ask who made it say this; some minutes.

    Example: [bold]dist-attr demo --out runs/demo[/]
    """
    from dist_attr.demo import run_demo

    run_demo(out, port=port)
