"""An audit from its queries to its result."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version

import numpy as np
import pyarrow as pa

from dist_attr.auditing.duplicates import SharedDocuments, shared_documents
from dist_attr.auditing.game import Game
from dist_attr.auditing.parts import check_folder, parquet, parts_of, plan_of
from dist_attr.auditing.probing import PROBED, check_probing, probing_facts
from dist_attr.auditing.queries import AuditQuery, lengths, read_audit_queries
from dist_attr.auditing.result import (
    RESULT,
    SHARES,
    SOURCES,
    VIEWER,
    Audit,
    AuditedSource,
    ShapleyFacts,
    ShareTable,
    matrix,
    read_scores,
    share_tables,
    shares_table,
    sources_table,
)
from dist_attr.auditing.scoring import Progress, read_out
from dist_attr.auditing.shares import FEWEST, Floats, fidelity_of, shares
from dist_attr.auditing.viewer import viewer_lines
from dist_attr.config import AuditConfig, absolute_url
from dist_attr.corpus import Document
from dist_attr.errors import ConfigError, CorpusError, StoreError
from dist_attr.probing import documents_of
from dist_attr.readout import store_tokenizer
from dist_attr.store import InfluenceStore, MeasuredFidelity, Place, open_store

SOFTWARE = ("dist_attr", "torch", "ray", "transformers", "numpy", "pyarrow", "datasketch")


def audit(
    store: str,
    queries: str,
    out: str,
    config: AuditConfig | None = None,
    *,
    workers: int = 2,
    model: str | None = None,
    corpus: str | None = None,
    command: str = "",
    progress: Progress = lambda *_: None,
) -> Audit:
    """Attribute many answers to the sources, and sum up what that says of each source.

    The folder gets `scores/`, in Parquet and partitioned by group, `shares.parquet`, `sources.parquet`, `viewer.jsonl`
    and, last of all, `audit.json`. What is finished in it already is not read out again.

    Args:
        store: its URL, reached from every node.
        queries: JSONL or Parquet at any fsspec URL, see `AuditQuery`.
        out: the folder, any fsspec URL that every node reaches.
        config: what is read out and how it is summed up.
        workers: actors that read out side by side.
        model: another place of the store's model.
        corpus: where the documents of the store are now; for probing every node reaches them there.
        command: that makes the same again.
        progress: called with what is done, how much of it and of how much.

    Raises:
        DistAttrError: a query cannot be scored or probed, the folder holds another audit, the store, its model or its
            documents are not as they should be, or a worker died too often. What is finished stays.
    """
    config = config or AuditConfig()
    if out.startswith("memory://"):
        raise ConfigError(f"--out {out}: memory:// belongs to one process and the workers are others; use a folder")
    opened, place = open_store(absolute_url(store)), Place(absolute_url(out))
    asked = read_audit_queries(queries)
    game = Game.of(len(opened.sources), config.shapley, config.seed) if config.shapley else None
    tokenizer, context = store_tokenizer(opened, model)
    sizes = lengths(asked, tokenizer, context)
    plan = plan_of(opened, asked, config)
    origin, probe = corpus or opened.manifest.run.corpus.path, config.probe
    origin = None if origin is None else absolute_url(origin)
    documents, refused = _documents(opened, origin, needed=corpus is not None or probe is not None)
    window = 0 if probe is None else check_probing(asked, opened, documents or (), tokenizer, context, probe)
    check_folder(place, plan)
    parts = parts_of(plan, asked, sizes, config.part)
    read_out(opened, place, parts, config, workers=workers, model=model, corpus=origin, progress=progress)
    duplicates = None if documents is None else shared_documents(documents, partial(progress, "shared documents"))
    covered = fidelity_of(opened.manifest.fidelity, config.readout, config.truth)
    sources = _sources(opened)
    scores = _scores(place, asked, config)
    tables = _tables(asked, scores, sources, config, opened, covered, progress)
    probing = None
    if probe is not None:
        progress("agreement with probing", 0, 1)
        probing = probing_facts(scores, asked, len(sources), probe, window, config.seed)
        progress("agreement with probing", 1, 1)
    manifest = opened.manifest
    assert manifest.model is not None
    failed = {record.name: record.failed for record in opened.records if record.failed is not None}
    found = Audit(
        store=opened.url,
        identity=manifest.identity,
        method=manifest.run.simulation.method,
        codec=manifest.encoding.codec,
        coverage=manifest.space.coverage,
        model_type=manifest.model.type,
        model=manifest.model.weights,
        tokenizer=manifest.model.tokenizer,
        corpus=manifest.corpus,
        store_versions=manifest.versions,
        fidelity=manifest.fidelity,
        covered=covered,
        options=config,
        queries=queries,
        queries_digest=plan["queries"],
        number=len(asked),
        sources=tuple(sources),
        failed=failed,
        tables=tuple(tables),
        shapley=None if game is None else ShapleyFacts(exact=game.exact, sets=len(game.removed)),
        probing=probing,
        duplicates=None if duplicates is None else tuple(duplicates),
        duplicates_refused=refused,
        warnings=tuple(_warnings(config, covered, failed, manifest.space.coverage, tables, duplicates)),
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"python": sys.version.split()[0], **{name: version(name) for name in SOFTWARE}},
    )
    place.write(SHARES, parquet(shares_table(found)))
    place.write(SOURCES, parquet(sources_table(found)))
    effects = matrix(scores["scores"], len(sources)) * [source.weight for source in sources]
    place.write(VIEWER, viewer_lines(asked, [source.name for source in sources], effects))
    place.write(RESULT, found.model_dump_json(indent=2).encode())
    return found


def _documents(store: InfluenceStore, corpus: str | None, *, needed: bool) -> tuple[list[Document] | None, str | None]:
    """Those of the sources with a tangent; or none, and why not, unless they are needed."""
    try:
        documents = documents_of(store, corpus)
    except CorpusError as error:
        if needed:
            raise
        return None, str(error)
    known = set(store.sources)
    return [document for document in documents if document.source in known], None


def _sources(store: InfluenceStore) -> list[AuditedSource]:
    weights, records = store.manifest.run.training.source_weights, {record.name: record for record in store.records}
    return [
        AuditedSource(
            name=name,
            documents=records[name].documents,
            tokens=records[name].tokens,
            trained_tokens=records[name].trained_tokens,
            weight=weights.get(name, 1.0),
        )
        for name in store.sources
    ]


def _scores(place: Place, asked: Sequence[AuditQuery], config: AuditConfig) -> pa.Table:
    """What was read out, in the order of the queries, without the texts.

    Raises:
        StoreError: it is not of these very queries, each once.
    """
    wanted = ["id", "scores", *(["errors"] if config.rank else []), *(["shapley"] if config.shapley else [])]
    wanted += PROBED if config.probe else ()
    found = read_scores(place.url, wanted)
    row = {name: i for i, name in enumerate(found["id"].to_pylist())}
    if len(found) != len(asked) or row.keys() != {query.name for query in asked}:
        raise StoreError(
            f"{place.url} holds scores of {len(found)} answers where {len(asked)} were asked for: something else "
            "was put there; take it away, or give another --out"
        )
    return found.take([row[query.name] for query in asked])


def _tables(
    asked: Sequence[AuditQuery],
    scores: pa.Table,
    sources: Sequence[AuditedSource],
    config: AuditConfig,
    store: InfluenceStore,
    covered: MeasuredFidelity | None,
    progress: Progress,
) -> list[ShareTable]:
    own = np.array([source.weight for source in sources])
    weights = np.array([query.weight for query in asked])
    groups = np.array([query.group for query in asked], object)
    effects = matrix(scores["scores"], len(sources)) * own
    errors = matrix(scores["errors"], len(sources)) * np.abs(own) if config.rank else None
    # A Shapley value is of weights already, and of a counterfactual readout whatever that of the scores is.
    kinds: list[tuple[bool, Floats, Floats | None, MeasuredFidelity | None]] = [(False, effects, errors, covered)]
    if config.shapley:
        theirs = fidelity_of(store.manifest.fidelity, "counterfactual", config.truth)
        kinds.append((True, matrix(scores["shapley"], len(sources)), None, theirs))
    cohorts: list[tuple[bool, str | None]] = [(True, None)]
    if len(there := dict.fromkeys(groups.tolist())) > 1:
        cohorts += [(False, group) for group in there]
    tables = []
    for number, (whole, group) in enumerate(cohorts):
        progress("shares", number, len(cohorts))
        some = np.full(len(asked), True) if whole else np.array([each == group for each in groups])
        for shapley, values, unsure, fidelity in kinds:
            found = shares(
                values[some],
                weights[some],
                errors=None if unsure is None else unsure[some],
                fidelity=fidelity,
                resamples=config.resamples,
                seed=config.seed,
            )
            tables += share_tables(
                found,
                sources,
                scope="all" if whole else "group",
                group=group,
                queries=int(some.sum()),
                weight=float(weights[some].sum()),
                shapley=shapley,
            )
    progress("shares", len(cohorts), len(cohorts))
    return tables


def _warnings(
    config: AuditConfig,
    covered: MeasuredFidelity | None,
    failed: dict[str, str],
    coverage: float,
    tables: Sequence[ShareTable],
    duplicates: Sequence[SharedDocuments] | None,
) -> list[str]:
    """What a reader has to know before anything else, in whole sentences."""
    said = []
    if covered is None:
        said.append(
            f"Nobody has compared the {config.readout} scores of this model with retraining ({config.truth}): the "
            "intervals cover other answers of the same kind, and not what is wrong with the scores themselves. Run "
            "dist-attr evaluate."
        )
    elif covered.correlation < 0.5:
        said.append(
            f"The scores predict retraining only weakly on this model: the rank correlation is "
            f"{covered.correlation:.2f}."
        )
    if failed:
        said.append(f"{len(failed)} sources have no tangent and no share: {', '.join(failed)}.")
    if coverage < 1:
        said.append(
            f"The run trained {100 * coverage:.2g} % of the model's parameters; what the others had learned before has "
            "no share."
        )
    few = sorted({(table.group or "no group") for table in tables if table.queries < FEWEST})
    if few:
        said.append(f"Fewer than {FEWEST} answers are too few for intervals: {', '.join(few)}.")
    if duplicates is None:
        said.append(
            "The documents were not to be had, so that nobody has looked which sources share some; name their place "
            "with --corpus."
        )
    said += [
        f"{pair.first} and {pair.second} share documents ({pair.first_documents} of the first, "
        f"{pair.second_documents} of the second are nearly alike): what these did is divided between the two by "
        "chance, and only their sum can be relied on."
        for pair in duplicates or ()
    ]
    return said
