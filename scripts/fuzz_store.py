"""Damage of every kind done to finished stores: is all of it found, or without effect?

Small stores of every codec, with a source that failed and one that no batch held, are damaged at random, one file or
two at a time: bytes flipped, overwritten, inserted or deleted, files cut, emptied, lost, swapped or laid over another,
JSON values altered (half of the manifests get a checksum that fits again). Then the store is opened, verified and read,
rows and spans of them. Outcomes:

- opening, reading: a StoreError says so, and no wrong number is handed out.
- verify: `verify` and reading the row say so, while a span of it is wrong. Of a span only the chunks are checked, and a
  chunk may be whole and of another place. It counts as a failure unless a file was lost or emptied (Zarr takes both for
  zeros) or took another's place.
- harmless: manifest, records and numbers are those of the whole store. A manifest with a fitting checksum may differ.

Anything else is a failure: a wrong number of a whole row, another exception, more than 5 seconds, or 64 MB of memory.
Prints a table, and exits with 1 if anything failed. The same seed does the same damage.

Example: python -m scripts.fuzz_store --corruptions 2000 --seed 0
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dist_attr.config import CodecName, RunConfig, StoreConfig
from dist_attr.errors import StoreError
from dist_attr.store import Manifest, ModelIdentity, SourceRecord, Space, StoreWriter, open_store
from dist_attr.store.manifest import checksum_of
from scripts.report import Report, Table

Files = dict[str, bytes]
OUTCOMES = ("opening", "reading", "verify", "harmless", "FAILED")
SECONDS, BYTES = 5.0, 2**26
# Of every type; sizes no memory has, and what would be read or fetched if anything followed it.
VALUES: list[Any] = [
    *(None, True, -1, 0, 2, 2**31, 2**62, 2**70, -0.5, 1e300, float("nan"), float("inf"), "", "int8", "float32"),
    *(
        "../../x",
        "/etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:9/x",
        "memory://x",
        "zip::http://127.0.0.1:9/x",
    ),
    *([], [1], [2**62, 2**62], {}, {"name": "numcodecs.pickle"}, {"path": "/etc/passwd"}, "object", "|O", "string"),
]


def make_store(url: str, codec: CodecName, size: int) -> NDArray[np.float32]:
    """A finished store of four sources with tangents and one without; the tangents (4, size)."""
    names = ("ant", "bee", "cat", "dog", "eel")
    records = [
        SourceRecord(name=name, documents=1, tokens=2, trained_tokens=2, first_step=0, last_step=1, examples=("d",))
        for name in names
    ]
    manifest = Manifest(
        identity="one",
        created="2026-01-01T00:00:00+00:00",
        complete=False,
        model=None,
        space=Space(names=("weight", "bias"), shapes=((size - 1,), (1,)), coverage=1.0),
        encoding=StoreConfig(codec=codec),
        sources=len(names),
        sources_checksum=None,
        corpus="c" * 64,
        computes="e" * 64,
        run=RunConfig(),
        versions={"dist_attr": "0"},
    )
    writer = StoreWriter.create(url, manifest, records)
    tangents = np.random.default_rng(size).standard_normal((4, size)).astype(np.float32)
    tangents[2] = 0
    for row, tangent in zip((0, 1, 3, 4), tangents, strict=True):
        writer.write(row, tangent, 7)
    writer.finish(ModelIdentity(type="gpt2", weights="a" * 64, tokenizer="b" * 64), {2: "it diverged"})
    return open_store(url).tangents()


class Victim:
    """A store, what it is when it is whole, and what becomes of it."""

    def __init__(self, folder: Path, codec: CodecName, size: int) -> None:
        self.folder = folder
        self.tangents = make_store(str(folder), codec, size)
        self.files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        whole = open_store(str(folder))
        self.manifest, self.records = whole.manifest, whole.records

    def judge(self, changes: dict[str, bytes | None], *, fitting: bool) -> str:
        """The outcome of some changes to files, which are undone; of a failure also what failed."""
        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for name, data in changes.items():
            (self.folder / name).unlink(missing_ok=True)
            if data is not None:
                (self.folder / name).write_bytes(data)
        try:
            outcome = self._outcome(fitting)
        except Exception as error:  # noqa: BLE001 - which is what is looked for
            outcome = f"FAILED: {type(error).__name__}: {error}"
        finally:
            for name in changes:
                (self.folder / name).write_bytes(self.files[name])
        if time.monotonic() - started > SECONDS:
            return f"FAILED: it took {time.monotonic() - started:.1f} seconds"
        if (grown := 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)) > BYTES:
            return f"FAILED: it took {grown / 1e6:.0f} MB"
        return outcome

    def _outcome(self, fitting: bool) -> str:
        try:
            store = open_store(str(self.folder))
        except StoreError:
            return "opening"
        if store.records != self.records or (store.manifest != self.manifest and not fitting):
            return "FAILED: other records or another manifest"
        found, outcome = store.verify(), "harmless"
        for row, name in enumerate(store.sources):
            damaged = self._differs(store.tangents, row, slice(None))
            if damaged is True:
                return "FAILED: a wrong number in a whole row"
            if (damaged is None) != (name in found):
                return "FAILED: verify and reading disagree"
            size = self.tangents.shape[1]
            for span in (slice(0, 7), slice(size // 2, size)):
                wrong = self._differs(partial(store.tangents, span=span), row, span)
                if wrong is True and damaged is False:
                    return "FAILED: a wrong number in a span of a whole row"
                outcome = "verify" if wrong is True else outcome
            if damaged is None and outcome == "harmless":
                outcome = "reading"
        return outcome

    def _differs(self, read: Callable[[list[int]], NDArray[np.float32]], row: int, span: slice) -> bool | None:
        """Whether what is read of a row is wrong; none if it is refused."""
        try:
            return not np.array_equal(read([row])[0], self.tangents[row, span])
        except StoreError:
            return None


def corrupt(files: Files, draw: random.Random) -> tuple[str, dict[str, bytes | None], bool]:
    """The kind of a corruption, what becomes of which files, and whether a manifest's checksum fits again."""
    group = draw.choice(sorted({kind_of(name) for name in files}))  # else most would befall what is many small files
    name = draw.choice([name for name in sorted(files) if kind_of(name) == group])
    other = draw.choice([another for another in sorted(files) if another != name])
    kind = draw.choice(["flip", "overwrite", "insert", "delete", "cut", "empty", "lose", "swap", "lay over", "alter"])
    data = bytearray(files[name])
    at, length = draw.randrange(len(data)), draw.randint(1, 16)
    match kind:
        case "flip":
            data[at] ^= 1 << draw.randrange(8)
        case "overwrite":
            data[at : at + length] = draw.randbytes(length)
        case "insert":
            data[at:at] = draw.randbytes(length)
        case "delete":
            del data[at : at + length]
        case "cut":
            del data[at:]
        case "empty":
            data.clear()
        case "lose":
            return kind, {name: None}, False
        case "swap":
            return kind, {name: files[other], other: files[name]}, False
        case "lay over":
            return kind, {name: files[other]}, False
        case "alter":
            name = draw.choice([name for name in sorted(files) if name.endswith("zarr.json")])
            text, fitting = altered(files[name], draw)
            return kind, {name: text}, fitting
    return kind, {name: bytes(data)}, False


def altered(data: bytes, draw: random.Random) -> tuple[bytes, bool]:
    """JSON with another value, or none, at a random place; whether its manifest was given the checksum that fits."""
    values = json.loads(data)
    place, key = draw.choice(list(places(values)))
    if draw.random() < 0.2:
        del place[key]
    else:
        place[key] = copy.deepcopy(draw.choice(VALUES))
    attributes = values.get("attributes")
    fitting = isinstance(attributes, dict) and "dist_attr" in attributes and draw.random() < 0.5
    if fitting:
        attributes["dist_attr_sha256"] = checksum_of(attributes["dist_attr"])
    return json.dumps(values).encode(), fitting


def places(values: Any) -> list[tuple[Any, Any]]:
    """Every container within JSON values, with each of its keys."""
    keys = list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else []
    return [pair for key in keys for pair in [(values, key), *places(values[key])]]


def kind_of(name: str) -> str:
    """What a file of a store is."""
    if name == "zarr.json":
        return "manifest"
    if name.endswith("zarr.json"):
        return "array's zarr.json"
    return name.split("/")[0]


def main(
    corruptions: Annotated[int, typer.Option(min=1)] = 2000,
    seed: Annotated[int, typer.Option()] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the table, as a report")] = None,
) -> None:
    """Damage stores, and print what was found."""
    draw, counts, failures = random.Random(seed), Counter[tuple[str, str]](), list[str]()
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )
    with tempfile.TemporaryDirectory() as folder, bar:
        shapes: list[tuple[CodecName, int]] = [(codec, 3001) for codec in get_args(CodecName)]
        shapes.append(("float32", 300_000))  # more than one chunk in a row
        victims = [Victim(Path(folder) / f"{codec}-{size}.zarr", codec, size) for codec, size in shapes]
        for victim in victims:
            assert victim.judge({}, fitting=False) == "harmless"
        for number in bar.track(range(corruptions), description="corruptions"):
            victim = draw.choice(victims)
            kind, changes, fitting = corrupt(victim.files, draw)
            outcome, _, why = victim.judge(changes, fitting=fitting).partition(": ")
            if outcome == "verify" and kind not in ("lose", "empty", "swap", "lay over"):
                outcome, why = "FAILED", "a wrong number in a span"
            for name in changes:
                counts[kind_of(name), outcome] += 1
            if why:
                digest = hashlib.sha256(repr(changes).encode()).hexdigest()[:8]
                failures.append(f"{number} ({victim.folder.stem}, {kind} {', '.join(changes)}, {digest}): {why}")
    names = sorted({name for name, _ in counts})
    table = Table(
        title=f"What became of {corruptions} corruptions",
        columns=["file", *OUTCOMES],
        rows=[[name, *(f"{counts[name, outcome]:,}" for outcome in OUTCOMES)] for name in names],
        note=f"{corruptions:,} corruptions; one of two files counts for both.",
    )
    report = Report.of({"outcomes": table}, seed=seed, libraries=("numcodecs",))
    report.show(Console())
    for failure in failures:
        typer.echo(failure)
    if json_file is not None:
        report.write(json_file)
    if failures:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
