"""What an evaluation found, and the files it is written to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dist_attr.config import EvaluationConfig, ReadoutName
from dist_attr.evaluation.fidelity import Estimate, Floats
from dist_attr.evaluation.tail_patch import Ranked
from dist_attr.readout import Query
from dist_attr.store import InfluenceStore, MeasuredFidelity, Place
from dist_attr.store.places import clear_errors


@dataclass(frozen=True, eq=False)
class Compared:
    """A readout's predictions against retraining.

    Attributes:
        predicted: (subsets, queries) changes, nats.
        correlation: LDS, or of one source at a time the rank correlation over sources.
        pearson: the correlation of the changes themselves.
        slope: true changes per predicted one.
        by_number: see `lds_by_number`.
    """

    predicted: Floats
    correlation: Estimate
    pearson: Estimate
    slope: Estimate
    by_number: list[tuple[int, float, float, float]]


@dataclass(frozen=True, eq=False)
class RetrainingResult:
    """What retraining said.

    Attributes:
        asked: the protocol and its truth.
        store: that was judged; its manifest has the figures.
        queries: that it was judged with.
        sources: of the store.
        logprobs: (queries,) log p(completion | prompt) of the run's own model, nats.
        dropped: (subsets, sources).
        true: (subsets, queries) changes of log p, nats; of several runs their mean.
        readouts: what each readout predicted.
        models: retrained without sources.
        ceiling: the correlation that the noise of the truth leaves to any prediction; none of this run, which has none.
        repeated: root mean square of what a repeated run differs in from the stored model, nats; none of fresh seeds.
    """

    asked: EvaluationConfig
    store: InfluenceStore
    queries: Sequence[Query]
    sources: Sequence[str]
    logprobs: Floats
    dropped: NDArray[np.bool_]
    true: Floats
    readouts: Mapping[ReadoutName, Compared]
    models: int
    ceiling: float | None
    repeated: float | None

    @property
    def size(self) -> int:
        """Sources that a retrained model goes without."""
        return int(self.dropped[0].sum())

    @property
    def name(self) -> str:
        """Of the folder with its files."""
        what = f"lds-drop-{self.size}" if self.asked.protocol == "lds" else self.asked.protocol
        return f"{what}-{self.asked.truth.replace(' ', '-')}"

    def measured(self) -> list[MeasuredFidelity]:
        """The figures for the manifest."""
        return [
            MeasuredFidelity(
                truth=self.asked.truth,
                readout=readout,
                dropped=self.size,
                retrained=self.models,
                queries=len(self.queries),
                correlation=_bounded(found.correlation.value),
                interval=(found.correlation.low, found.correlation.high),
                slope=found.slope.value,
                ceiling=self.ceiling,
            )
            for readout, found in self.readouts.items()
        ]

    def facts(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            **_facts(self),
            "truth": self.asked.truth,
            "dropped": self.size,
            "subsets": len(self.dropped),
            "retrained": self.models,
            "ceiling": self.ceiling,
            "repeated_error": self.repeated,
            "readouts": {
                readout: {
                    "correlation": _values(found.correlation),
                    "pearson": _values(found.pearson),
                    "slope": _values(found.slope),
                    "by_number_of_subsets": found.by_number,
                }
                for readout, found in self.readouts.items()
            },
        }

    def tables(self) -> dict[str, pa.Table]:
        """By name: `subsets`, a row for each subset and query; `queries`, a row for each query."""
        number, queries = self.true.shape
        without = [[self.sources[i] for i in np.flatnonzero(row).tolist()] for row in self.dropped]
        return {
            "subsets": pa.table(
                {
                    "subset": np.repeat(np.arange(number), queries),
                    "dropped": [names for names in without for _ in range(queries)],
                    "query": np.tile(np.arange(queries), number),
                    "true": self.true.ravel(),
                    **{f"predicted_{readout}": found.predicted.ravel() for readout, found in self.readouts.items()},
                }
            ),
            "queries": pa.table(
                {
                    **_query_columns(self),
                    **{
                        f"{name}_{readout}": getattr(found, name).per_query
                        for readout, found in self.readouts.items()
                        for name in ("correlation", "pearson", "slope")
                    },
                }
            ),
        }


@dataclass(frozen=True, eq=False)
class PatchResult:
    """What one more step on each source said.

    Attributes:
        asked: the protocol.
        store: that was judged.
        queries: that it was judged with.
        sources: of the store.
        logprobs: (queries,) log p(completion | prompt) of the run's own model, nats.
        change: (sources, queries) of log p by a step on the source, nats.
        anyone: the change by a step on a source, mean over all.
        readouts: what each readout's ranking is worth.
    """

    asked: EvaluationConfig
    store: InfluenceStore
    queries: Sequence[Query]
    sources: Sequence[str]
    logprobs: Floats
    change: Floats
    anyone: Estimate
    readouts: Mapping[ReadoutName, Ranked]

    @property
    def name(self) -> str:
        """Of the folder with its files."""
        return self.asked.protocol

    def facts(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            **_facts(self),
            "top": self.asked.top,
            "sources": len(self.sources),
            "random": _values(self.anyone),
            "readouts": {
                readout: {
                    "top": _values(found.top),
                    "bottom": _values(found.bottom),
                    "top_less_bottom": _values(found.gap),
                    "correlation": _values(found.correlation),
                }
                for readout, found in self.readouts.items()
            },
        }

    def tables(self) -> dict[str, pa.Table]:
        """By name: `sources`, a row for each source and query; `queries`, a row for each query."""
        number, queries = self.change.shape
        return {
            "sources": pa.table(
                {
                    "source": [name for name in self.sources for _ in range(queries)],
                    "query": np.tile(np.arange(queries), number),
                    "change": self.change.ravel(),
                    **{f"score_{readout}": found.scores.T.ravel() for readout, found in self.readouts.items()},
                }
            ),
            "queries": pa.table(
                {
                    **_query_columns(self),
                    "random": self.anyone.per_query,
                    **{
                        f"{name}_{readout}": getattr(found, name).per_query
                        for readout, found in self.readouts.items()
                        for name in ("top", "bottom", "correlation")
                    },
                }
            ),
        }


def write_result(result: RetrainingResult | PatchResult, page: str) -> str:
    """Write evaluation.json, the page as evaluation.html and the tables as Parquet; returns the folder's URL.

    Raises:
        StoreError: the place cannot be written to.
    """
    place: Place = result.store.place.beside(f"evaluation/{result.name}")
    files, path = place.files()
    contents = {
        "evaluation.json": json.dumps(result.facts(), indent=2).encode(),
        "evaluation.html": page.encode(),
    }
    for name, table in result.tables().items():
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        contents[f"{name}.parquet"] = buffer.getvalue().to_pybytes()
    with clear_errors(place.url, making=True):
        if place.local is not None:
            files.makedirs(path, exist_ok=True)
        for name, content in contents.items():
            files.pipe_file(f"{path}/{name}", content)
    return place.url


def _facts(result: RetrainingResult | PatchResult) -> dict[str, Any]:
    return {"store": result.store.url, "protocol": result.asked.protocol, "queries": len(result.queries)}


def _query_columns(result: RetrainingResult | PatchResult) -> dict[str, Any]:
    return {
        "query": np.arange(len(result.queries)),
        "prompt": [query.prompt for query in result.queries],
        "completion": [query.completion for query in result.queries],
        "logprob": result.logprobs,
    }


def _values(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "interval": [estimate.low, estimate.high], "queries": estimate.per_query.tolist()}


def _bounded(correlation: float) -> float:
    return max(-1.0, min(1.0, correlation))  # rounding may go beyond
