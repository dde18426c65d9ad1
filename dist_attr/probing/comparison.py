"""What a comparison of influence and in-context probing comes to: figures for people, tables for further work."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from scipy.stats import rankdata

from dist_attr.config import Settings
from dist_attr.probing.agreement import agreement
from dist_attr.probing.figures import Agreement, Cohort
from dist_attr.probing.measuring import CompareOptions, Measurements
from dist_attr.probing.ranks import Floats
from dist_attr.store import InfluenceStore, MeasuredFidelity

SOFTWARE = ("dist_attr", "torch", "transformers", "numpy", "scipy", "bm25s")
BINS = 20  # of ranks, where there are more sources
STRONGEST = 12  # documents that are named
SUMMARIES = ("median", "best")  # of a source's passages, beside their mean


class Cost(Settings):
    """What a query takes, without loading anything."""

    seconds: float = Field(description="mean over the queries")
    readings: float = Field(description="forward passes over a text, or along a direction; mean over the queries")


class SourceFigures(Settings):
    """A source over all queries."""

    source: str
    influence: float = Field(description="mean score, nats per unit source weight")
    probing: float = Field(description="mean over queries of the mean over its passages, nats")
    golden: float = Field(description="share of queries whose likelihood its passages raise on average")
    bm25: float
    tokens: float = Field(description="mean length of its passages")


class ComparedQuery(Settings):
    """A query, and the source each method puts first."""

    id: str
    group: str | None
    prompt: str
    completion: str
    logprob: float = Field(description="log p(completion | prompt), nats")
    influence_top: str
    probing_top: str


class MovingDocument(Settings):
    """A passage that changed an answer much."""

    query: str = Field(description="its id")
    source: str
    document: str
    window: int = Field(description="which part of the document, from 0")
    windows: int
    score: float = Field(description="what it added to log p(completion | prompt), nats")
    influence: float = Field(description="score of its source for the query")


class Comparison(Settings):
    """What a comparison says, how it was made and what it cost."""

    store: str
    identity: str = Field(description="of the store")
    method: str = Field(description="of the simulation")
    model: str = Field(description="fingerprint of the weights")
    tokenizer: str
    corpus: str
    fidelity: tuple[MeasuredFidelity, ...] = Field(description="how well influence itself predicts retraining here")
    options: CompareOptions
    window: int = Field(description="tokens of a passage")
    seed: int = Field(description="of the bootstrap")
    agreement: Agreement = Field(description="with the mean of each source's passages")
    summaries: dict[str, Cohort] = Field(description="all queries, with the median or the best passage instead")
    ranks: tuple[tuple[int, ...], ...] = Field(
        description="how many pairs of a query and a source rank so by influence (rows, from the highest) and by "
        "probing (columns); ranks in up to 20 bins"
    )
    sources: tuple[SourceFigures, ...]
    queries: tuple[ComparedQuery, ...]
    documents: tuple[MovingDocument, ...] = Field(description="the strongest of all queries, whatever their sign")
    influence_cost: Cost
    probing_cost: Cost
    device: str
    threads: int = Field(description="of the processor")
    command: str
    created: str = Field(description="ISO 8601, UTC")
    versions: dict[str, str]


def comparison(store: InfluenceStore, measured: Measurements, *, seed: int, command: str) -> Comparison:
    """Compare what was measured.

    Args:
        store: it was measured on.
        measured: from `measure`.
        seed: of the bootstrap.
        command: that makes the same again.
    """
    manifest = store.manifest
    assert manifest.model is not None
    influence, mean, bm25, tokens = map(measured.stacked, ("influence", "mean", "bm25", "tokens"))
    covariates = {"bm25": bm25, "tokens": tokens}
    groups = [question.group for question in measured.questions]
    summaries = {
        name: agreement(influence, measured.stacked(name), covariates=covariates, seed=seed).overall
        for name in SUMMARIES
    }
    return Comparison(
        store=store.url,
        identity=manifest.identity,
        method=manifest.run.simulation.method,
        model=manifest.model.weights,
        tokenizer=manifest.model.tokenizer,
        corpus=manifest.corpus,
        fidelity=manifest.fidelity,
        options=measured.options,
        window=measured.window,
        seed=seed,
        agreement=agreement(influence, mean, covariates=covariates, groups=groups, seed=seed),
        summaries=summaries,
        ranks=_joint_ranks(influence, mean),
        sources=tuple(
            SourceFigures(source=source, influence=a, probing=b, golden=c, bm25=d, tokens=e)
            for source, a, b, c, d, e in zip(
                measured.sources,
                *(rows.mean(axis=0).tolist() for rows in (influence, mean, mean > 0, bm25, tokens)),
                strict=True,
            )
        ),
        queries=tuple(
            ComparedQuery(
                id=str(question.id),
                group=question.group,
                prompt=question.prompt,
                completion=question.completion,
                logprob=row.logprob,
                influence_top=measured.sources[row.influence.argmax()],
                probing_top=measured.sources[row.mean.argmax()],
            )
            for question, row in zip(measured.questions, measured.rows, strict=True)
        ),
        documents=_strongest(measured),
        influence_cost=Cost(
            seconds=float(np.mean([row.influence_seconds for row in measured.rows])),
            readings=measured.options.rank or len(measured.sources),
        ),
        probing_cost=Cost(
            seconds=float(np.mean([row.probing_seconds for row in measured.rows])),
            readings=1 + float(np.mean([len(row.passage_score) for row in measured.rows])),
        ),
        device=measured.device,
        threads=torch.get_num_threads(),
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={name: version(name) for name in SOFTWARE},
    )


def scores_table(measured: Measurements) -> pa.Table:
    """A row for each query and source: influence, mean, median and best in-context score, BM25 and tokens."""
    queries, sources = len(measured.rows), len(measured.sources)
    names = {"influence": "influence", "icp_mean": "mean", "icp_median": "median", "icp_best": "best"}
    return pa.table(
        {
            "query": np.repeat([str(question.id) for question in measured.questions], sources),
            "source": np.tile(measured.sources, queries),
            **{
                column: measured.stacked(name).ravel()
                for column, name in {**names, "bm25": "bm25", "tokens": "tokens"}.items()
            },
        }
    )


def documents_table(measured: Measurements) -> pa.Table:
    """A row for each query and passage: source, document, window of how many, tokens and in-context score."""
    columns = {"window": "window", "windows": "windows", "tokens": "tokens", "icp": "score"}
    ids = [str(question.id) for question in measured.questions]
    return pa.table(
        {
            "query": [number for number, row in zip(ids, measured.rows, strict=True) for _ in row.passage_score],
            "source": [measured.sources[i] for row in measured.rows for i in row.passage_source],
            "document": [document for row in measured.rows for document in row.passage_document],
            **{
                column: np.concatenate([getattr(row, f"passage_{name}") for row in measured.rows])
                for column, name in columns.items()
            },
        }
    )


def _joint_ranks(influence: Floats, probing: Floats) -> tuple[tuple[int, ...], ...]:
    sources = influence.shape[1]
    bins = min(BINS, sources)
    # Ranks from 1, the highest first; those of ties lie between.
    first, second = (
        np.minimum((rankdata(-scores, axis=1) - 1) * bins // sources, bins - 1).astype(np.int64).ravel()
        for scores in (influence, probing)
    )
    counts = np.bincount(first * bins + second, minlength=bins * bins).reshape(bins, bins)
    return tuple(map(tuple, counts.tolist()))


def _strongest(measured: Measurements) -> tuple[MovingDocument, ...]:
    scores = np.concatenate([row.passage_score for row in measured.rows])
    places: Sequence[tuple[int, int]] = [
        (query, number) for query, row in enumerate(measured.rows) for number in range(len(row.passage_score))
    ]
    found = []
    for place in np.argsort(-np.abs(scores), kind="stable")[:STRONGEST]:
        query, number = places[place]
        row = measured.rows[query]
        source = row.passage_source[number]
        found.append(
            MovingDocument(
                query=str(measured.questions[query].id),
                source=measured.sources[source],
                document=row.passage_document[number],
                window=row.passage_window[number],
                windows=row.passage_windows[number],
                score=row.passage_score[number],
                influence=row.influence[source],
            )
        )
    return tuple(found)
