"""A plan's estimates side by side."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dist_attr.display.terminal import size_in_words

if TYPE_CHECKING:
    from dist_attr.simulation import Estimate


def show_plan(estimates: Sequence[Estimate], console: Console | None = None) -> None:
    """The estimates as a table, a row each, and what to set for an alternative."""
    console = console or Console()
    device = estimates[0].device
    table = Table("", "time", "simulation", "memory", "store", "query", f"{device}-hours", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for estimate in estimates:
        table.add_row(
            f"[bold]{estimate.name}[/]",
            _time(estimate.seconds),
            _time(estimate.simulation_seconds) + _retraining(estimate.of_retraining),
            _size(estimate.memory_bytes),
            _size(estimate.store_bytes),
            _time(estimate.query_seconds),
            "–" if estimate.device_hours is None else f"{estimate.device_hours:.3g}",
        )
    console.print(table)
    console.print(
        "[dim]simulation: time, and × that of retraining without each source · memory: the simulation's, on an actor · "
        f"store: uncompressed · query: linear readout of one as long as the context, all sources on one {device}[/]"
    )
    for estimate in estimates:
        if estimate.problem is not None:
            console.print(Text(f"{estimate.name} does not fit: {estimate.problem}", "red"))
            continue
        if estimate.parked is not None:
            console.print(f"{estimate.name}: states that do not fit are parked in {estimate.parked}")
        if estimate.settings:
            settings = yaml.safe_dump(estimate.settings, default_flow_style=True, width=1000).strip()
            console.print(Text(f"{estimate.name}: {settings}", "dim"))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{1e3 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else str(timedelta(seconds=round(seconds)))


def _size(size: int | None) -> str:
    return "–" if size is None else size_in_words(size)


def _retraining(ratio: float | None) -> str:
    return "" if ratio is None else f" (×{ratio:.2f})"
