"""Fill the pages of docs with the tables that the scripts wrote, so that no figure in them is typed by hand.

A page has blocks that end with `<!-- end -->`:

- `<!-- table: NAME/TABLE -->` holds table TABLE of docs/results/data/NAME.json, which the script wrote with `--json`
  (scripts/report.py);
- `<!-- source: NAME -->` holds the command that made the file, when, with which seed and versions, and on what machine.

What stands around the blocks is written by people. `--check` changes nothing, and fails where a block is not what the
file says.

Example: python -m scripts.results
         python -m scripts.results --check
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from pydantic import ValidationError
from rich.console import Console

from dist_attr.errors import DistAttrError
from scripts.report import Report

FOLDER = Path(__file__).parents[1] / "docs" / "results"
END = "<!-- end -->"
START = re.compile(r"^<!-- (table|source): (.+) -->$")


class ResultsError(DistAttrError):
    """A page asks for what no script has written, or a block of it is not closed."""


class Block(NamedTuple):
    """A part of a page that is made from a file.

    Attributes:
        name: its kind and what it shows, as in "table: planted_facts/learnt".
        first, last: numbers of the lines between its two marks, from 0; `last` is that of the end mark.
        lines: what ought to stand there.
    """

    name: str
    first: int
    last: int
    lines: list[str]


def blocks(page: Path, data: Path) -> Iterator[Block]:
    """The blocks of a page, in their order.

    Args:
        page: a Markdown file.
        data: the folder with the reports.

    Raises:
        ResultsError: a block has no end, or there is no such report or table.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if not (found := START.match(line)):
            continue
        kind, name = found.groups()
        ends = (i for i in range(number + 1, len(lines)) if lines[i] == END or START.match(lines[i]))
        last = next(ends, None)
        if last is None or lines[last] != END:
            raise ResultsError(f"{page.name}: the block '{kind}: {name}' has no end; put a line {END} after it")
        text = as_table(page, data, name) if kind == "table" else source(report(page, data, name))
        yield Block(f"{kind}: {name}", number + 1, last, text.splitlines())


def report(page: Path, data: Path, name: str) -> Report:
    """What a script has written. Raises ResultsError when it has not, or when that is no report."""
    file = data / f"{name}.json"
    try:
        return Report.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise ResultsError(f"{page.name} shows '{name}', but {file} is not there; run the script with --json") from None
    except ValidationError as error:
        raise ResultsError(f"{file} is no report; make it again with the script's --json: {error}") from None


def as_table(page: Path, data: Path, name: str) -> str:
    """A table of a report, "report/table", in Markdown."""
    of, _, wanted = name.partition("/")
    tables = report(page, data, of).tables
    if wanted not in tables:
        raise ResultsError(f"{page.name} shows '{name}', but the tables of {of}.json are {', '.join(tables)}")
    return tables[wanted].markdown()


def source(made: Report) -> str:
    """Where the tables of a report are from, in Markdown."""
    took = "" if made.seconds is None else f" in {duration(made.seconds)}"
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    when = f"{made.day.day} {made.day:%B %Y}"
    return f"    {made.command}\n\n*Printed on {when}{took}, seed {made.seed}; {made.machine}; {versions}.*"


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def filled(page: Path, data: Path) -> str:
    """A page with what its blocks ought to hold."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for block in reversed(list(blocks(page, data))):
        lines[block.first : block.last] = block.lines
    return "\n".join(lines) + "\n"


def stale(page: Path, data: Path) -> list[str]:
    """The blocks of a page that are not what the files say."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [block.name for block in blocks(page, data) if lines[block.first : block.last] != block.lines]


def published() -> list[Path]:
    """The pages that may show figures."""
    return sorted([*FOLDER.parent.glob("*.md"), *FOLDER.glob("*.md")])


def main(
    check: Annotated[bool, typer.Option("--check", help="change nothing; fail if a block is not current")] = False,
) -> None:
    """Fill all pages of docs and docs/results, or check them. Example: python -m scripts.results --check"""
    console, data = Console(), FOLDER / "data"
    old: list[str] = []
    try:
        for page in published():
            names = stale(page, data)
            old += [f"{page.name}: {name}" for name in names]
            if names and not check:
                page.write_text(filled(page, data), encoding="utf-8")
    except ResultsError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    for name in old:
        console.print(f"{name} {'is not current' if check else 'filled'}", markup=False, soft_wrap=True)
    if old and check:
        console.print("Run python -m scripts.results.")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
