"""How fast an audit reads out, against the bare readout engine, and with more workers.

The bare engine is `Attributor.attribute` over all queries in one call, in the order of the audit (by length), in a
process that has loaded the store and read out once. As many such engines side by side, in a process each, say what the
machine has for as many workers. Engines and audits take turns, and the median of the rounds counts, with the range.

The rate of an audit is that of its steady state. Its parts' files say when each was finished; the window begins when
half of them are, all workers long at work, and ends when one worker might find nothing to do. A part counts by the
seconds that one engine takes for it, since long ones come first. What comes before, Ray's start and the workers' with
the loading of store and model, stands in a table of its own.

Without --store, a small GPT with random weights and tangents. Queries are pieces of the built-in example's speeches.
On the processor, one thread for each engine and worker.

Example: python -m scripts.audit_speed --json docs/results/data/audit_speed.json
         python -m scripts.audit_speed --store runs/demo/influence.zarr --workers 1 --workers 2 --workers 4
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from scripts import one_thread
from scripts.report import Report, Table, interval

if TYPE_CHECKING:
    from dist_attr.auditing.parts import Part

SOURCES, CONTEXT = 16, 128  # of the store that is made here
MODEL = {"model_type": "gpt2", "n_layer": 4, "n_embd": 128, "n_head": 4}
PARTS = 8  # for each worker, or there is no steady state to speak of
PATIENCE = 3600.0  # seconds that an engine waits for the others

console = Console(width=120)


@dataclass(frozen=True)
class Material:
    """What is read out.

    Attributes:
        store: its path or URL.
        queries: the file of them.
        parts: of the audit, in the order in which workers get them.
        seconds: that one engine takes for each part, the better of two times.
        loading: seconds that it took to load the store and its model.
        size: of a part.
    """

    store: str
    queries: str
    parts: list[Part]
    seconds: list[float]
    loading: float
    size: int

    @property
    def number(self) -> int:
        """Of queries."""
        return sum(len(part.queries) for part in self.parts)


@dataclass(frozen=True)
class Audited:
    """An audit on the clock.

    Attributes:
        rate: queries a second in its steady state.
        ray: seconds of Ray's start.
        workers: seconds from the first word of the audit until its first part was there, less what that part takes.
        whole: seconds of the audit, Ray's start left out.
    """

    rate: float
    ray: float
    workers: float
    whole: float


def material(store: str, folder: Path, number: int, size: int) -> Material:
    """Queries for a store, and what one engine takes for their parts."""
    import dist_attr as da
    from dist_attr.auditing import read_audit_queries
    from dist_attr.auditing.parts import parts_of, plan_of
    from dist_attr.auditing.queries import lengths
    from dist_attr.corpus.example import speeches
    from dist_attr.readout import sample_queries, store_tokenizer

    started = time.perf_counter()
    opened = da.open_store(store)
    attributor = da.Attributor(opened)
    loading = time.perf_counter() - started
    drawn = sample_queries([text for _, text, _, _ in speeches("president")], number, attributor.fits)
    rows = [{"id": i, "prompt": query.prompt, "completion": query.completion} for i, query in enumerate(drawn)]
    file = folder / "queries.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    asked, config = read_audit_queries(str(file)), _config(size)
    parts = parts_of(plan_of(opened, asked, config), asked, lengths(asked, *store_tokenizer(opened)), size)
    attributor.attribute(parts[0].queries)

    def timed(part: Part) -> float:
        started = time.perf_counter()
        attributor.attribute(part.queries)
        return time.perf_counter() - started

    seconds = [min(timed(part), timed(part)) for part in parts]
    return Material(store, str(file), parts, seconds, loading, size)


def _config(size: int) -> Any:
    from dist_attr.config import AuditConfig

    return AuditConfig(part=size, resamples=100)


def engines(given: Material, number: int) -> float:
    """Queries a second of so many bare engines side by side, all of which read out all queries."""
    spawn = multiprocessing.get_context("spawn")
    ready, found = spawn.Barrier(number), spawn.Queue()
    queries = [query for part in given.parts for query in part.queries]
    processes = [spawn.Process(target=_engine, args=(given.store, queries, ready, found)) for _ in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"an engine ended with exit code {process.exitcode}; what it said stands above")
    return float(sum(len(queries) / found.get() for _ in processes))


def _engine(store: str, queries: Sequence[Any], ready: Any, found: Any) -> None:
    import dist_attr as da

    attributor = da.Attributor(da.open_store(store))
    attributor.attribute(queries[:8])
    ready.wait(PATIENCE)
    started = time.perf_counter()
    attributor.attribute(queries)
    found.put(time.perf_counter() - started)


def audited(given: Material, workers: int, out: Path) -> Audited:
    """An audit by so many workers, on a Ray of its own."""
    import ray

    from dist_attr.auditing import audit

    begun = list[float]()
    started = time.time()
    ray.init(
        address="local",
        num_cpus=max(workers, os.cpu_count() or 1),  # workers may be more than there are processors
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    there = time.time()
    config = _config(given.size)
    audit(given.store, given.queries, str(out), config, workers=workers, progress=lambda *_: begun.append(time.time()))
    whole = time.time() - there
    ray.shutdown()
    files = [out / part.name for part in given.parts]
    times = sorted((file.stat().st_mtime, own) for file, own in zip(files, given.seconds, strict=True))
    return Audited(
        rate=steady(times, workers) * given.number / sum(given.seconds),
        ray=there - started,
        workers=times[0][0] - begun[0] - times[0][1],
        whole=whole,
    )


def steady(finished: Sequence[tuple[float, float]], workers: int) -> float:
    """How many engines' work is done in the steady state of an audit.

    Args:
        finished: of each part, in the order in which they were finished, when that was and how many seconds one engine
            takes for it.
        workers: how many there were.
    """
    first, last = len(finished) // 2 - 1, len(finished) - 1 - workers
    work = sum(seconds for _, seconds in finished[first + 1 : last + 1])
    return work / (finished[last][0] - finished[first][0])


def median(values: Sequence[float], digits: int = 2) -> str:
    """With the range of the rounds, where there are several."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return interval(statistics.median(values), min(values), max(values), digits)


def tables(given: Material, bare: dict[int, list[float]], audits: dict[int, list[Audited]]) -> dict[str, Table]:
    """Rates in the steady state, and what comes before it; all rounds of each number of workers."""
    rates = {workers: [run.rate for run in runs] for workers, runs in audits.items()}
    cores = len(os.sched_getaffinity(0))

    def ratio(own: Sequence[float], other: Sequence[float], times: int = 1) -> str:
        return median([a / (times * b) for a, b in zip(own, other, strict=True)])

    crowded = [workers for workers in rates if workers > cores]
    note = (
        f"{given.number} queries in parts of {given.size}; median of {len(bare[1])} rounds and their range. In the "
        f"last two columns 1 is linear. Workers share {cores} cores with Ray and the command itself"
    )
    if crowded:
        said = " and ".join(map(str, crowded))
        note += f"; {said} workers are more than that, and can have no more than as many bare engines have"
    fast = Table(
        title="Queries a second in the steady state",
        columns=["workers", "bare engines", "audit", "audit / engines", "audit, per worker / 1", "engines, each / 1"],
        rows=[
            [
                str(workers),
                median(bare[workers], 1),
                median(rates[workers], 1),
                ratio(rates[workers], bare[workers]),
                ratio(rates[workers], rates[1], workers),
                ratio(bare[workers], bare[1], workers),
            ]
            for workers in rates
        ],
        note=f"{note}.",
    )
    before = Table(
        title="Seconds before the steady state, and of the whole audit",
        columns=["workers", "Ray's start", "workers' start and loading", "loading alone, one engine", "whole audit"],
        rows=[
            [
                str(workers),
                median([run.ray for run in runs], 1),
                median([run.workers for run in runs], 1),
                f"{given.loading:.1f}",
                median([run.whole for run in runs], 1),
            ]
            for workers, runs in audits.items()
        ],
        note="The whole audit is without Ray's start, and has reading the queries and the reckoning of shares in it.",
    )
    return {"steady": fast, "before": before}


def main(
    store: Annotated[str | None, typer.Option(help="a finished store with its model; by default one made here")] = None,
    workers: Annotated[list[int], typer.Option(min=1, help="one after another, besides 1")] = [1, 2],  # noqa: B006
    queries: Annotated[int, typer.Option(min=1)] = 1024,
    part: Annotated[int, typer.Option(min=1, help="queries that are read out together")] = 16,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the tables, as a report")] = None,
) -> None:
    """Measure and print. Example: python -m scripts.audit_speed --workers 1 --workers 2"""
    from tests.stores import make_store

    numbers = sorted({1, *workers})
    if queries < PARTS * part * numbers[-1]:
        raise SystemExit(
            f"{queries} queries in parts of {part} leave no steady state for {numbers[-1]} workers; take "
            f"{PARTS * part * numbers[-1]} --queries or more, or a smaller --part"
        )
    if "RAY_ADDRESS" in os.environ:
        raise SystemExit("the audit is compared with engines on this machine; unset RAY_ADDRESS")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if store is None:
            names = [f"source {i}" for i in range(SOURCES)]
            store = make_store(folder, names, settings=MODEL, context=CONTEXT).url
        given = material(store, folder, queries, part)
        bare: dict[int, list[float]] = {number: [] for number in numbers}
        audits: dict[int, list[Audited]] = {number: [] for number in numbers}
        for turn in range(rounds):
            for number in numbers:
                bare[number].append(engines(given, number))
                audits[number].append(audited(given, number, folder / f"audit-{turn}-{number}"))
                console.print(
                    f"round {turn + 1}, {number} workers: {bare[number][-1]:.1f} queries/s by bare engines, "
                    f"{audits[number][-1].rate:.1f} by the audit",
                    highlight=False,
                )
    report = Report.of(tables(given, bare, audits), seed=0, seconds=time.monotonic() - started)
    report.show(console)
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.audit_speed")
