"""Influence and in-context probing of the same queries on the same model, measured beside each other.

Design decisions:
- One model in memory reads for both.
- Queries are measured some at a time, and what is finished lies in a folder whose name is a digest of all that decides
  the numbers: a measurement that was interrupted goes on there, and one with other settings does not find it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from dist_attr.config import ProbeConfig, ReadoutName, Settings
from dist_attr.errors import StoreError
from dist_attr.probing.passages import Passage, Passages
from dist_attr.probing.prober import Probe, Prober
from dist_attr.probing.questions import Question
from dist_attr.probing.ranks import Floats
from dist_attr.probing.sources import by_source
from dist_attr.readout import Attributor
from dist_attr.store import InfluenceStore

AT_ONCE = 16  # queries


class CompareOptions(Settings):
    """What decides the numbers of a comparison."""

    probe: ProbeConfig = ProbeConfig()
    readout: ReadoutName = "linear"
    rank: int | None = Field(None, ge=1, description="directions of the readout basis; exact without")


@dataclass(frozen=True, eq=False)
class Measured:
    """What both methods say of one query.

    Attributes:
        logprob: log p(completion | prompt), nats.
        completion_tokens: that are scored.
        influence: (sources,) scores, nats per unit source weight.
        mean: (sources,) of the in-context scores of each source's passages, nats; so are the next two.
        median: the same.
        best: the same.
        bm25: (sources,) of the source's best window.
        tokens: (sources,) mean length of the source's passages.
        passage_source: (passages,) which source each is of.
        passage_document: ids of the documents.
        passage_window: which window of its document.
        passage_windows: of how many.
        passage_tokens: their lengths.
        passage_score: nats.
        influence_seconds: what the query took, as its share of those measured with it.
        probing_seconds: the same.
    """

    logprob: float
    completion_tokens: int
    influence: Floats
    mean: Floats
    median: Floats
    best: Floats
    bm25: Floats
    tokens: Floats
    passage_source: NDArray[np.int64]
    passage_document: list[str]
    passage_window: NDArray[np.int64]
    passage_windows: NDArray[np.int64]
    passage_tokens: NDArray[np.int64]
    passage_score: Floats
    influence_seconds: float
    probing_seconds: float


@dataclass(frozen=True, eq=False)
class Measurements:
    """What both methods say of some queries.

    Attributes:
        sources: names, in the order of the scores.
        questions: the queries.
        rows: what was measured of each.
        options: how.
        window: tokens of a passage.
        device: what it was measured on.
    """

    sources: list[str]
    questions: list[Question]
    rows: list[Measured]
    options: CompareOptions
    window: int
    device: str

    def stacked(self, name: str) -> Floats:
        """A figure of all queries and sources, (queries, sources)."""
        return np.stack([getattr(row, name) for row in self.rows])


def measure(
    store: InfluenceStore,
    questions: Sequence[Question],
    options: CompareOptions,
    *,
    corpus: str | None = None,
    folder: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Measurements:
    """Measure influence and in-context probing of some queries.

    Args:
        store: from `open_store`.
        questions: at least one.
        options: how.
        corpus: another place, any fsspec URL, of the very documents that the store was made of.
        folder: keeps what is finished, and has what was finished before; `finished_in` names it.
        progress: called with what is done, how many readings of the model, and of how many.

    Raises:
        StoreError: the model is not the store's, a tangent is damaged, or there is a single source.
        CorpusError: the documents are missing, or not those of the store.
        QueryError: a query cannot be scored or probed; nothing is measured then.
    """
    if len(store.sources) < 2:
        raise StoreError(f"{store.url} has the source {store.sources[0]!r} only; a comparison ranks two or more")
    attributor = Attributor(store, rank=options.rank)
    engine = attributor.engine
    engine.check(options.readout)
    prober = Prober(engine.module, engine.tokenizer, options.probe)
    passages = Passages.of(store, engine.tokenizer, prober.window, corpus)
    along = options.rank or len(attributor.sources)
    counts = [0]
    for number, question in enumerate(questions):
        own = passages.choose(question, options.probe)  # and again when it is measured: all of them take much memory
        prober.check(question, own, number)
        counts.append(1 + len(own) + along)
    readings = np.cumsum(counts).tolist()
    rows: list[Measured] = []
    for start in range(0, len(questions), AT_ONCE):
        part = slice(start, min(start + AT_ONCE, len(questions)))
        progress("influence and probing", readings[start], readings[-1])
        file = None if folder is None else folder / f"queries-{start:06d}.parquet"
        if file is not None and file.exists():
            rows += _read(file)
            continue
        asked = questions[part]
        clock = time.perf_counter()
        found = attributor.attribute(asked, options.readout)
        done, halfway = readings[start] + along * len(asked), time.perf_counter()

        def report(read: int) -> None:
            nonlocal done
            done += read
            progress("influence and probing", done, readings[-1])

        chosen = [passages.choose(question, options.probe) for question in asked]
        probes = prober.probe(asked, chosen, report)
        finished = time.perf_counter()
        seconds = (halfway - clock) / len(asked), (finished - halfway) / len(asked)
        measured = [
            _measured(attributor.sources, scores.astype(np.float64), probe, passages.bm25(question), seconds)
            for question, scores, probe in zip(asked, found.scores, probes, strict=True)
        ]
        if file is not None:
            _write(file, measured)
        rows += measured
    progress("influence and probing", readings[-1], readings[-1])
    return Measurements(attributor.sources, list(questions), rows, options, prober.window, engine.device.type)


def finished_in(out: Path, store: InfluenceStore, questions: Sequence[Question], options: CompareOptions) -> Path:
    """The folder in `out` that keeps what is finished of a measurement."""
    decides = [
        store.manifest.identity,
        options.model_dump_json(),
        *(question.model_dump_json() for question in questions),
    ]
    return out / f"unfinished-{hashlib.sha256(repr(decides).encode()).hexdigest()[:16]}"


def _measured(
    sources: Sequence[str], influence: Floats, probe: Probe, bm25: Floats, seconds: tuple[float, float]
) -> Measured:
    summed = by_source(probe, sources)
    number = {source: i for i, source in enumerate(sources)}
    source = np.array([number[passage.source] for passage in probe.passages])

    def of_passages(get: Callable[[Passage], int]) -> NDArray[np.int64]:
        return np.array([get(passage) for passage in probe.passages])

    return Measured(
        logprob=float(probe.logprobs.sum()),
        completion_tokens=len(probe.logprobs),
        influence=influence,
        mean=np.array([each.mean for each in summed]),
        median=np.array([each.median for each in summed]),
        best=np.array([each.best for each in summed]),
        bm25=bm25,
        tokens=np.array([each.tokens for each in summed]),
        passage_source=source,
        passage_document=[passage.document for passage in probe.passages],
        passage_window=of_passages(lambda passage: passage.window),
        passage_windows=of_passages(lambda passage: passage.windows),
        passage_tokens=of_passages(lambda passage: len(passage.tokens)),
        passage_score=probe.scores.astype(np.float64),
        influence_seconds=seconds[0],
        probing_seconds=seconds[1],
    )


def _write(file: Path, rows: Sequence[Measured]) -> None:
    """All of it, or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    names = [field.name for field in fields(Measured)]
    pq.write_table(pa.table({name: [getattr(row, name) for row in rows] for name in names}), part)
    part.replace(file)


def _read(file: Path) -> list[Measured]:
    def value(name: str, stored: Any) -> Any:
        return np.array(stored) if isinstance(stored, list) and name != "passage_document" else stored

    return [
        Measured(**{name: value(name, stored) for name, stored in row.items()})
        for row in pq.read_table(file).to_pylist()
    ]
