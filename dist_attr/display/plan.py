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
    from dist_attr.config import RunConfig
    from dist_attr.simulation import Estimate


def show_plan(config: RunConfig, estimates: Sequence[Estimate], console: Console | None = None) -> None:
    """The estimates as a table, one column each, and what to set for an alternative."""
    console = console or Console()
    device = estimates[0].device
    table = Table("", *(estimate.name for estimate in estimates), title=f"{config.output}: what it would cost")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = {
        "time": [_time(estimate.seconds) for estimate in estimates],
        "of it simulation": [_time(estimate.simulation_seconds) for estimate in estimates],
        "simulation / retraining without each source": [_ratio(estimate.of_retraining) for estimate in estimates],
        f"{device}-hours": [_number(estimate.device_hours) for estimate in estimates],
        "sources in a pass": [_number(estimate.sources_per_pass) for estimate in estimates],
        "simulation's memory on an actor": [_size(estimate.memory_bytes) for estimate in estimates],
        "states parked in": [estimate.parked or "–" for estimate in estimates],
        "store, uncompressed": [_size(estimate.store_bytes) for estimate in estimates],
        f"linear readout of a query on one {device}": [_time(estimate.query_seconds) for estimate in estimates],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    console.print(table)
    for estimate in estimates:
        if estimate.problem is not None:
            console.print(Text(f"{estimate.name} does not fit: {estimate.problem}", "red"))
        elif estimate.settings:
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


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"


def _number(number: float | None) -> str:
    return "–" if number is None else f"{number:.3g}"
