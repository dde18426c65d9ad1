"""What a script of published figures writes: tables with everything that is needed to print them again.

`docs/results` is made of these files by `python -m scripts.results`, so that no figure there was typed by hand.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table as RichTable

NAMED = ("torch", "deepspeed", "ray", "transformers", "zarr", "numpy", "scipy")  # whose versions are given


class Table(BaseModel):
    """A table as it is printed and published.

    Attributes:
        title: what the figures are, with their unit and interval.
        columns: headings; the first is that of the rows' names.
        rows: cells as they are shown.
        note: what a reader has to know of it, in Markdown.
    """

    model_config = ConfigDict(extra="forbid")

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        """As a table of GitHub's Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        cells = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return "\n".join(cells) + (f"\n\n{self.note}" if self.note else "")

    def rich(self) -> RichTable:
        """For the terminal."""
        table = RichTable(*self.columns, title=self.title, caption=self.note or None)
        for row in self.rows:
            table.add_row(*row)
        return table


class Report(BaseModel):
    """All tables of one run of a script.

    Attributes:
        command: what printed them.
        seed: of everything that was drawn.
        day: when.
        seconds: how long it took, all runs that it went on from together, if that is known.
        machine: processor, cores, memory and accelerators; no name.
        versions: of the libraries that the figures depend on.
        tables: by the name that docs/results calls them.
    """

    model_config = ConfigDict(extra="forbid")

    command: str
    seed: int
    day: date
    seconds: float | None
    machine: str
    versions: dict[str, str]
    tables: dict[str, Table]

    @classmethod
    def of(
        cls, tables: dict[str, Table], *, seed: int, seconds: float | None = None, libraries: Sequence[str] = ()
    ) -> Report:
        """Of this very process; `libraries` are those besides the usual whose versions matter."""
        return cls(
            command=command_line(sys.argv),
            seed=seed,
            day=date.today(),
            seconds=seconds,
            machine=machine(),
            versions={name: version(name) for name in (*NAMED, *libraries)},
            tables=tables,
        )

    def show(self, console: Console) -> None:
        """Print the tables."""
        for table in self.tables.values():
            console.print(table.rich())

    def write(self, file: Path) -> None:
        """As JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def command_line(arguments: Sequence[str]) -> str:
    """The command as a user types it, whatever the interpreter's path."""
    script = Path(arguments[0]).stem
    return shlex.join(["python", "-m", f"scripts.{script}", *arguments[1:]])


def machine() -> str:
    """In words that say what a timing depends on, and not whose machine it is."""
    import psutil
    import torch

    memory = psutil.virtual_memory().total / 2**30
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, {', '.join(devices) or 'no GPU'}"


def interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """A figure with its interval, as all tables write it."""
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
