"""How fast influence stores are encoded, written and read, against what the same bytes cost without them.

Three tables, each with its reference from the same run: codecs against copying the float32 numbers in memory, one
thread; a store on the local disk against plain files; a store on an S3 server (SeaweedFS, started here, on this very
machine) against downloading the same objects with obstore, and with s3fs. Rounds take turns, and the best of each
counts, since machines are noisy. The numbers are Student's t with 3 degrees of freedom, which compresses about as
well as tangents do.

Example: python -m scripts.store_speed --json docs/results/data/store_speed.json
         python -m scripts.store_speed --rows 2 --parameters 1000000 --rounds 1
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from zarr.storage import FsspecStore

from dist_attr.config import CodecName, RunConfig, StoreConfig
from dist_attr.store import (
    Codec,
    InfluenceStore,
    Manifest,
    ModelIdentity,
    Place,
    SourceRecord,
    Space,
    StoreWriter,
    open_store,
)
from dist_attr.store.layout import create_arrays, open_arrays
from scripts.report import Report, Table
from tests.s3_server import S3Server

DIGEST = "0" * 64
Timed = dict[str, float]
console = Console()


def best(work: Mapping[str, Callable[[], object]], rounds: int) -> Timed:
    """Seconds of each, the best of some rounds in turns, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, do in work.items():
            started = time.perf_counter()
            do()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: min(values) for name, values in seconds.items()}


def tangents(rows: int, parameters: int) -> NDArray[np.float32]:
    draw = np.random.default_rng(0)
    return np.stack([draw.standard_t(3, parameters).astype(np.float32) for _ in range(rows)])


def write(url: str, values: NDArray[np.float32], codec: CodecName, options: dict[str, Any] | None = None) -> None:
    encoding = StoreConfig(codec=codec)
    manifest = Manifest(
        identity=url,
        created="2026-01-01T00:00:00+00:00",
        complete=False,
        model=None,
        space=Space(names=("weight",), shapes=((values.shape[1],),), coverage=1.0),
        encoding=encoding,
        sources=len(values),
        sources_checksum=None,
        corpus=DIGEST,
        computes=DIGEST,
        run=RunConfig(),
        versions={},
    )
    records = [
        SourceRecord(name=str(i), documents=1, tokens=1, trained_tokens=1, first_step=0, last_step=0, examples=())
        for i in range(len(values))
    ]
    writer = StoreWriter.create(url, manifest, records, options=options)
    for number, row in enumerate(values):
        writer.write(number, row, 1)
    writer.finish(ModelIdentity(type="gpt2", weights=DIGEST, tokenizer=DIGEST))


def load(store: InfluenceStore) -> None:
    """What a shard of the service does when it starts: all rows, checked, as they are stored."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store.encoded, range(len(store.sources))))


def codec_speed(values: NDArray[np.float32], rounds: int) -> dict[str, Timed]:
    """MB/s of float32 numbers, and how many times as long as a copy it takes."""
    row, other = values[0], np.empty_like(values[0])
    codecs = {name: Codec.of(StoreConfig(codec=name)) for name in get_args(CodecName) if name != "float32"}
    encoded = {name: codec.encode(row) for name, codec in codecs.items()}
    work: dict[str, Callable[[], object]] = {"copy": lambda: np.copyto(other, row)}
    for name, codec in codecs.items():
        work[f"{name} encode"] = lambda codec=codec: codec.encode(row)  # type: ignore[misc]
        work[f"{name} decode"] = lambda codec=codec, name=name: codec.decode(encoded[name], other)  # type: ignore[misc]
    seconds = best(work, rounds)
    return {
        name: {"MB/s of float32": row.nbytes / took / 1e6, "times a copy": took / seconds["copy"]}
        for name, took in seconds.items()
    }


def disk_speed(values: NDArray[np.float32], codec: CodecName, rounds: int) -> dict[str, Timed]:
    """Writing and reading a store on this disk; the reference moves the bytes of the finished store as plain files."""
    with tempfile.TemporaryDirectory() as folder:
        write(f"{folder}/first.zarr", values, codec)
        store = open_store(f"{folder}/first.zarr")
        files = [file for file in Path(store.url, "tangents").rglob("*") if file.is_file()]
        parts = [file.read_bytes() for file in files]
        count = iter(range(10**6))

        def plain() -> None:
            for number, part in enumerate(parts):
                Path(folder, f"plain-{number}").write_bytes(part)

        work: dict[str, Callable[[], object]] = {
            "plain files, written": plain,
            "store, written": lambda: write(f"{folder}/{next(count)}.zarr", values, codec),
            "plain files, read": lambda: [file.read_bytes() for file in files],
            "store, read as stored": lambda: load(store),
            "store, read as float32": store.tangents,
        }
        seconds = best(work, rounds)
    return as_rates(seconds, sum(map(len, parts)), values.nbytes)


def s3_speed(values: NDArray[np.float32], codec: CodecName, rounds: int) -> dict[str, Timed]:
    """The same on an S3 server, through obstore and through s3fs."""
    with tempfile.TemporaryDirectory() as folder:
        server = S3Server(Path(folder))
        server.start()
        try:
            files = server.files()
            files.mkdir("speed")
            url, count = "s3://speed/first.zarr", iter(range(10**6))
            write(url, values, codec, server.options)
            store = open_store(url, options=server.options)
            names = [name.removeprefix("speed/first.zarr/") for name in files.find("speed/first.zarr/tangents/c")]
            size = sum(files.sizes([f"speed/first.zarr/{name}" for name in names]))
            objects: Any = Place(url, server.options).zarr_store(read_only=True)
            parts = [bytes(objects.store.get(name).bytes()) for name in names]
            through_s3fs = FsspecStore.from_url(url, storage_options=server.options, read_only=True)
            work: dict[str, Callable[[], object]] = {
                "download, obstore": lambda: asyncio.run(download(objects.store, names)),
                "download, s3fs": lambda: files.cat([f"speed/first.zarr/{name}" for name in names]),
                "store, read as stored": lambda: load(store),
                "store, read as float32": store.tangents,
                "store, read as stored, s3fs": lambda: load(read_through(store, through_s3fs)),
                "upload, obstore": lambda: asyncio.run(upload(objects.store, parts)),
                "store, written": lambda: write(f"s3://speed/{next(count)}.zarr", values, codec, server.options),
            }
            seconds = best(work, rounds)
        finally:
            server.kill()
    return as_rates(seconds, size, values.nbytes)


async def download(objects: Any, names: Sequence[str]) -> None:
    parts = await asyncio.gather(*(objects.get_async(name) for name in names))
    await asyncio.gather(*(part.bytes_async() for part in parts))


async def upload(objects: Any, parts: Sequence[bytes]) -> None:
    await asyncio.gather(*(objects.put_async(f"plain/{number}", part) for number, part in enumerate(parts)))


def read_through(store: InfluenceStore, files: FsspecStore) -> InfluenceStore:
    """The same store through another Zarr store."""
    import zarr

    size, sources = store.manifest.space.size, store.manifest.sources
    arrays = open_arrays(
        zarr.open_group(files, mode="r"), lambda memory: create_arrays(memory, sources, size, store.codec)
    )
    return InfluenceStore(store.place, store.manifest, store.records, arrays)


def as_rates(seconds: Timed, stored: int, numbers: int) -> dict[str, Timed]:
    return {
        name: {"MB/s stored": stored / took / 1e6, "MB/s of float32": numbers / took / 1e6}
        for name, took in seconds.items()
    }


def as_table(title: str, rows: Mapping[str, Timed]) -> Table:
    columns = list(next(iter(rows.values())))
    cells = [[name, *(number(figures[column]) for column in columns)] for name, figures in rows.items()]
    return Table(title=title, columns=["", *columns], rows=cells)


def number(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def main(
    rows: Annotated[int, typer.Option(min=1, help="sources of the store")] = 8,
    parameters: Annotated[int, typer.Option(min=1, help="P")] = 16_000_000,
    codec: Annotated[str, typer.Option(help="of the stores")] = "int8",
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the tables, as a report")] = None,
) -> None:
    """Measure and print. Example: python -m scripts.store_speed --rows 2"""
    name = StoreConfig.model_validate({"codec": codec}).codec
    started, values = time.monotonic(), tangents(rows, parameters)
    tables = {
        "codecs": as_table("Codecs, one thread", codec_speed(values, rounds)),
        "disk": as_table(f"A store with {name} on the disk", disk_speed(values, name, rounds)),
        "s3": as_table(f"A store with {name} on S3", s3_speed(values, name, rounds)),
    }
    report = Report.of(tables, seed=0, seconds=time.monotonic() - started)
    report.show(console)
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    typer.run(main)
