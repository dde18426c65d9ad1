"""What the commands for stores print: what a store holds, and how far its rows are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import get_args

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from dist_attr.config import CodecName, StoreConfig
from dist_attr.display.fidelity import fidelity_in_words
from dist_attr.errors import DamagedError
from dist_attr.store import Codec, InfluenceStore, Manifest, UnfinishedStore, open_basis, parts_of

SHOWN = 10  # names in a line; the table below has all


@contextmanager
def rows_progress(doing: str, rows: int, row_bytes: int) -> Iterator[Callable[[], None]]:
    """A bar with MB/s and ETA on standard error; yields what to call after each row, from any thread.

    Bytes are those of the stored numbers before compression.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[done]}/{task.fields[rows]} sources"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
    )
    done = count(1)
    with bar:
        task = bar.add_task(doing, total=rows * row_bytes, done=0, rows=rows)
        yield lambda: bar.update(task, advance=row_bytes, done=next(done))


def bytes_in_each_codec(store: InfluenceStore | UnfinishedStore) -> dict[CodecName, int]:
    """What the rows of a store would take in each codec, before compression, with its own block size."""
    rows = len(store.sources) if isinstance(store, InfluenceStore) else len(store.records)
    block, size = store.manifest.encoding.block_size, store.manifest.space.size
    return {
        name: rows * Codec.of(StoreConfig(codec=name, block_size=block)).bytes(size) for name in get_args(CodecName)
    }


def show_store(store: InfluenceStore | UnfinishedStore) -> None:
    """The manifest as tables; of an unfinished store, which sources are there and which are missing."""
    manifest, console = store.manifest, Console()
    facts = Table(show_header=False, box=None)
    model = manifest.model
    rows = {
        "store": store.url,
        "identity": f"{manifest.identity}, made {manifest.created}",
        "model": "not known before the store is finished"
        if model is None
        else f"{model.type}, weights {model.weights[:12]}…",
        "parameters": f"{manifest.space.size:,} per tangent, {manifest.space.coverage:.1%} of the model",
        "simulation": _how(manifest),
        "corpus": f"{manifest.corpus[:12]}…",
        "size": _size(store),
        "by codec": _by_codec(store),
        "failed": "; ".join(f"{record.name}: {record.failed}" for record in store.records if record.failed) or "none",
        "basis": "none" if isinstance(store, UnfinishedStore) else _basis(store),
        "fidelity": fidelity_in_words(store.manifest.fidelity),
    }
    if isinstance(store, UnfinishedStore):
        rows = {"store": store.url, "unfinished": _how_far(store), **rows}
    for name, value in rows.items():
        facts.add_row(f"[bold]{name}[/]", Text(value))
    console.print(facts)
    console.print(_sources(store))


def _sources(store: InfluenceStore | UnfinishedStore) -> Table:
    in_steps = "trained tokens" if store.manifest.descent is None else "tokens in steps"
    there = set(store.written) if isinstance(store, UnfinishedStore) else None
    last = [] if there is None else ["tangent"]
    table = Table("source", "documents", "tokens", in_steps, "first step", "last step", *last)
    for column in table.columns[1:]:
        column.justify = "right"
    for record in store.records:
        cells = [f"{record.documents:,}", f"{record.tokens:,}", f"{record.trained_tokens:,}"]
        cells += ["–" if step is None else str(step) for step in (record.first_step, record.last_step)]
        if there is not None:
            cells.append("written" if record.name in there else "missing")
        table.add_row(Text(record.name), *cells)
    return table


def _how_far(store: UnfinishedStore) -> str:
    missing = ", ".join(store.missing[:SHOWN]) + (" …" if len(store.missing) > SHOWN else "")
    return (
        f"{len(store.written)} of {len(store.records)} sources are written"
        + (f", missing: {missing}" if missing else "")
        + "; what was writing it (simulate, copy, merge) goes on when it is started again"
    )


def _size(store: InfluenceStore | UnfinishedStore) -> str:
    encoding, stored = store.manifest.encoding, store.stored_bytes
    blocks = f", {encoding.block_size} numbers a scale" if Codec.of(encoding).levels else ""
    if isinstance(store, UnfinishedStore):
        return f"{decimal(stored)} so far ({encoding.codec}{blocks})"
    sources, size = len(store.sources), store.manifest.space.size
    basis = parts_of(store.place).get("basis", 0)
    stored -= basis
    return (
        f"{decimal(stored)} for {sources} sources, {decimal(round(stored / sources))} each, "
        f"{8 * stored / sources / size:.2f} bits a parameter ({encoding.codec}{blocks})"
        + (f"; and {decimal(basis)} of the basis" if basis else "")
    )


def _basis(store: InfluenceStore) -> str:
    try:
        basis = open_basis(store)
    except DamagedError as error:
        return str(error)
    if basis is None:
        return "none, every source is read out"
    found = basis.manifest
    return f"{found.rank} directions, {found.energy:.2%} of the scores of {found.queries} calibration queries"


def _by_codec(store: InfluenceStore | UnfinishedStore) -> str:
    sizes = bytes_in_each_codec(store).items()
    return " · ".join(f"{name} {decimal(size)}" for name, size in sizes) + ", before compression"


def _how(manifest: Manifest) -> str:
    method, descent = manifest.run.simulation.method, manifest.descent
    if descent is None:
        return f"{method}, {manifest.run.steps} steps of {manifest.run.training.optimizer}"
    curvature = "not measured"
    if descent.largest is not None and descent.smallest is not None:
        curvature = f"λmax = {descent.largest:.3g}, λmin = {descent.smallest:.3g}"
        if descent.damping <= -descent.smallest:
            curvature += ": more negative than the damping makes up for, so that more steps have no limit"
    return (
        f"{method}, K = {descent.steps} steps of η = {descent.rate:.3g} with damping λ = {descent.damping:.3g} "
        f"(1/ηK = {1 / (descent.rate * descent.steps):.3g}); curvature {curvature}"
    )
