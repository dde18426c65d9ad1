"""What an audit found: figures with their provenance for people and programs, and tables for further work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from pydantic import Field

from dist_attr.auditing.duplicates import SharedDocuments
from dist_attr.auditing.parts import NO_GROUP, SCORES
from dist_attr.auditing.shares import Figure, Floats, Shares
from dist_attr.config import AuditConfig, MethodName, ProbeConfig, Settings
from dist_attr.errors import StoreError
from dist_attr.probing import Agreement
from dist_attr.store import MeasuredFidelity, Place
from dist_attr.store.places import clear_damage

RESULT, SHARES, SOURCES, VIEWER = "audit.json", "shares.parquet", "sources.parquet", "viewer.jsonl"
MILLION = 1e6

Measure = Literal["positive share", "net effect", "Shapley positive share", "Shapley net effect"]
Scope = Literal["all", "group"]


class AuditedSource(Settings):
    """A source, in the order of the scores."""

    name: str
    documents: int
    tokens: int = Field(description="of training data")
    trained_tokens: int = Field(description="targets in the run's steps, repeats counted")
    weight: float = Field(description="in the run; an effect is this times the score")


class SourceShare(Settings):
    """A figure of a source; ends of intervals are none where they are not known."""

    source: str
    value: float | None = Field(description="none where no source has positive influence")
    low: float | None = Field(description="of the 95 % interval over answers of the same kind")
    high: float | None
    fidelity_low: float | None = Field(description="of that which also covers the measured fidelity of the scores")
    fidelity_high: float | None
    per_million_tokens: float | None = Field(description="the value by a million tokens of the source's training data")
    distinct: bool = Field(description="the source's net effect can be told from 0, by the widest interval there is")

    @property
    def widest(self) -> tuple[float, float] | None:
        """The interval that covers all that is known to be uncertain; none if nothing is known."""
        lows = [end for end in (self.low, self.fidelity_low) if end is not None]
        highs = [end for end in (self.high, self.fidelity_high) if end is not None]
        return (min(lows), max(highs)) if lows and highs else None


class ShareTable(Settings):
    """A figure of all sources, for all queries or a group of them."""

    scope: Scope
    group: str | None = Field(description="none of all queries, and of those without a group")
    measure: Measure
    unit: Literal["share", "nats per answer"]
    queries: int
    weight: float = Field(description="sum of the queries' weights")
    sources: tuple[SourceShare, ...]


class ShapleyFacts(Settings):
    """How Shapley values were found."""

    exact: bool
    sets: int = Field(description="of sources, that were removed for each query")


class ProbingFacts(Settings):
    """How far in-context probing tells what influence tells."""

    options: ProbeConfig
    window: int = Field(description="tokens of a passage, at most")
    agreement: Agreement = Field(
        description="of scores and mean in-context scores; of single queries it says nothing here"
    )


class Audit(Settings):
    """What an audit says, and how it was made."""

    store: str
    identity: str = Field(description="of the store")
    method: MethodName = Field(description="of the simulation")
    codec: str
    coverage: float = Field(description="share of the model's parameters that the run trained; they carry the tangents")
    model_type: str
    model: str = Field(description="fingerprint of the weights")
    tokenizer: str = Field(description="fingerprint")
    corpus: str = Field(description="fingerprint of the documents")
    store_versions: dict[str, str] = Field(description="of the software that the store was made with")
    fidelity: tuple[MeasuredFidelity, ...] = Field(description="all that was measured of the store")
    covered: MeasuredFidelity | None = Field(description="the figure that the intervals cover; none if there is none")
    options: AuditConfig
    queries: str = Field(description="the file")
    queries_digest: str = Field(description="sha256 of the queries, whatever their order")
    number: int = Field(description="of queries")
    sources: tuple[AuditedSource, ...]
    failed: dict[str, str] = Field(description="sources without a tangent, and why")
    tables: tuple[ShareTable, ...]
    shapley: ShapleyFacts | None
    probing: ProbingFacts | None
    duplicates: tuple[SharedDocuments, ...] | None = Field(description="none where the documents were not to be had")
    duplicates_refused: str | None = Field(description="why they were not to be had")
    warnings: tuple[str, ...] = Field(description="what a reader has to know before anything else")
    command: str
    created: str = Field(description="ISO 8601, UTC")
    versions: dict[str, str]

    def table(self, measure: Measure, group: str | None = None, scope: Scope = "all") -> ShareTable:
        """One of the tables.

        Raises:
            KeyError: there is none.
        """
        for found in self.tables:
            if (found.measure, found.group, found.scope) == (measure, group, scope):
                return found
        raise KeyError((measure, group, scope))


def share_tables(
    found: Shares,
    sources: Sequence[AuditedSource],
    *,
    scope: Scope,
    group: str | None,
    queries: int,
    weight: float,
    shapley: bool = False,
) -> list[ShareTable]:
    """The figures of some queries as tables."""
    measures: tuple[Measure, Measure] = ("positive share", "net effect")
    if shapley:
        measures = ("Shapley positive share", "Shapley net effect")
    units: tuple[Literal["share"], Literal["nats per answer"]] = ("share", "nats per answer")
    return [
        ShareTable(
            scope=scope,
            group=group,
            measure=measure,
            unit=unit,
            queries=queries,
            weight=weight,
            sources=tuple(
                _share(figure, i, source, distinct=bool(found.distinct[i])) for i, source in enumerate(sources)
            ),
        )
        for measure, unit, figure in zip(measures, units, (found.positive, found.net), strict=True)
    ]


def _share(figure: Figure, i: int, source: AuditedSource, *, distinct: bool) -> SourceShare:
    ends = (figure.value, figure.low, figure.high, figure.fidelity_low, figure.fidelity_high)
    value, low, high, fidelity_low, fidelity_high = (
        None if end is None or math.isnan(end[i]) else float(end[i]) for end in ends
    )
    return SourceShare(
        source=source.name,
        value=value,
        low=low,
        high=high,
        fidelity_low=fidelity_low,
        fidelity_high=fidelity_high,
        per_million_tokens=None if value is None or not source.tokens else value * MILLION / source.tokens,
        distinct=distinct,
    )


def shares_table(audit: Audit) -> pa.Table:
    """All figures, a row for each source of each table."""
    rows = [
        {**table.model_dump(exclude={"sources"}), **source.model_dump()}
        for table in audit.tables
        for source in table.sources
    ]
    schema = pa.schema([
        *((name, pa.string()) for name in ("scope", "group", "measure", "unit")),
        ("queries", pa.int64()),
        ("weight", pa.float64()),
        ("source", pa.string()),
        *((name, pa.float64()) for name in ("value", "low", "high", "fidelity_low", "fidelity_high")),
        ("per_million_tokens", pa.float64()),
        ("distinct", pa.bool_()),
    ])  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema)


def sources_table(audit: Audit) -> pa.Table:
    """The sources in the order in which every list of scores has them."""
    return pa.Table.from_pylist([{"number": i, **source.model_dump()} for i, source in enumerate(audit.sources)])


def read_audit(out: str) -> Audit:
    """The result in the folder of a finished audit, any fsspec URL.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    data = Place(out).read(RESULT)
    if data is None:
        raise StoreError(
            f"there is no finished audit at {out}; start dist-attr audit with this --out, it goes on there"
        )
    with clear_damage(f"{RESULT} in {out} is damaged"):
        return Audit.model_validate_json(data)


def read_scores(out: str, columns: Sequence[str] | None = None) -> pa.Table:
    """What was read out of each query, a row for each, in no order; their group is the column `group`.

    Args:
        out: the folder of an audit, any fsspec URL.
        columns: only these, and the group.

    Raises:
        StoreError: a file is missing or damaged.
    """
    place = Place(out)
    files, folder = place.files()
    groups = pyarrow.dataset.partitioning(pa.schema([("group", pa.string())]), flavor="hive")
    with clear_damage(f"the scores in {out} cannot be read"):
        data = pyarrow.dataset.dataset(f"{folder}/{SCORES}", format="parquet", filesystem=files, partitioning=groups)
        found = data.to_table(columns=None if columns is None else [*columns, "group"])
    named = pc.if_else(pc.equal(found["group"], NO_GROUP), pa.scalar(None, pa.string()), found["group"])
    return found.set_column(found.column_names.index("group"), "group", named)


def matrix(column: pa.ChunkedArray, width: int) -> Floats:
    """A column of lists as numbers (rows, width)."""
    values = column.combine_chunks().flatten()
    found: Floats = values.to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(column), width)
    return found
