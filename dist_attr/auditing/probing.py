"""In-context probing of an audit's queries, beside their influence.

What can be wrong with a query is found before anything is read out, without the model. A worker tokenises and indexes
the documents itself, once: they are many times smaller than what it reads of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from dist_attr.auditing.queries import AuditQuery, refuse
from dist_attr.auditing.result import Audit, ProbingFacts, matrix, read_scores
from dist_attr.auditing.shares import Floats
from dist_attr.config import ProbeConfig
from dist_attr.corpus import Document, Tokenizer
from dist_attr.errors import QueryError, StoreError
from dist_attr.probing import Passage, Passages, Prober, agreement, by_source
from dist_attr.probing.prompts import Prompts
from dist_attr.readout import ReadoutEngine
from dist_attr.store import InfluenceStore

PROBED = ("probing", "bm25", "passage_tokens")  # columns: lists in the order of the sources
AT_ONCE = 16  # queries whose prompts are in memory together, with all passages of all sources


class PartProber:
    """A prober of parts, with the model that reads out influence.

    Args:
        engine: of the store, in fp32.
        store: from `open_store`.
        config: which passages are put into prompts, and how.
        corpus: another place, any fsspec URL, of the store's documents.

    Raises:
        CorpusError: the documents cannot be reached from here, or are not those of the store.
        ConfigError: the window leaves no room for a query, or there is no chat template to use.
    """

    def __init__(self, engine: ReadoutEngine, store: InfluenceStore, config: ProbeConfig, corpus: str | None) -> None:
        self._prober = Prober(engine.module, engine.tokenizer, config)
        self._passages = Passages.of(store, engine.tokenizer, self._prober.window, corpus)

    def columns(self, queries: Sequence[AuditQuery]) -> dict[str, list[Floats]]:
        """What is written of some queries, a row of each source's figures for each query.

        `probing` is the mean in-context score of the source's passages, nats; `bm25` is of its best window;
        `passage_tokens` is the mean length of its passages.

        Raises:
            QueryError: a query cannot be probed.
        """
        found: dict[str, list[Floats]] = {name: [] for name in PROBED}
        for start in range(0, len(queries), AT_ONCE):
            some = queries[start : start + AT_ONCE]
            chosen = [self._passages.choose(query, self._prober.config) for query in some]
            for query, probe in zip(some, self._prober.probe(some, chosen), strict=True):
                own = by_source(probe, self._passages.sources)
                found["probing"].append(np.array([source.mean for source in own]))
                found["bm25"].append(self._passages.bm25(query))
                found["passage_tokens"].append(np.array([source.tokens for source in own]))
        return found


def check_probing(
    queries: Sequence[AuditQuery],
    store: InfluenceStore,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    context: int,
    config: ProbeConfig,
) -> int:
    """See that all queries can be probed, without the model.

    Args:
        queries: each can be scored.
        store: from `open_store`.
        documents: of its sources.
        tokenizer: of its model.
        context: tokens that the model reads at once.
        config: which passages are put into prompts, and how.

    Returns:
        Tokens of a passage, at most.

    Raises:
        StoreError: there is a single source.
        CorpusError: a document has no tokens, or a source no document.
        ConfigError: as for `Prompts`.
        QueryError: some queries cannot be probed; it names them, and says what is the matter with the first.
    """
    if len(store.sources) < 2:
        raise StoreError(
            f"{store.url} has the source {store.sources[0]!r} only, and probing ranks two or more; leave out --probe"
        )
    prompts = Prompts(tokenizer, config, context)
    passages = Passages(store.sources, documents, tokenizer, prompts.window)
    longest = Passage("", "", 0, 1, (0,) * prompts.window)

    def check(query: AuditQuery) -> None:
        prompted = prompts.of(query, 0)
        try:
            prompts.after(longest, prompted)
        except QueryError:  # only then it matters how long its own passages are, and choosing them takes time
            for passage in passages.choose(query, config):
                prompts.after(passage, prompted)

    refuse(queries, check, "probed")
    return prompts.window


def probing_facts(
    scores: pa.Table, queries: Sequence[AuditQuery], sources: int, config: ProbeConfig, window: int, seed: int
) -> ProbingFacts:
    """How far probing ranks the sources as influence does.

    Args:
        scores: of the audit, in the order of the queries, with the columns of probing.
        queries: whose groups are told apart; their weights do not count.
        sources: how many there are.
        config: that they were probed with.
        window: tokens of a passage, at most.
        seed: of the bootstrap.
    """
    influence, (probing, *trivial) = matrix(scores["scores"], sources), (matrix(scores[n], sources) for n in PROBED)
    found = agreement(
        influence,
        probing,
        covariates=dict(zip(("bm25", "tokens"), trivial, strict=True)),
        groups=[query.group for query in queries],
        seed=seed,
    )
    # What it says of each query follows from the scores, and there may be very many.
    return ProbingFacts(options=config, window=window, agreement=found.model_copy(update={"per_query": ()}))


def source_means(out: str, audit: Audit) -> list[tuple[float, float]]:
    """Of each source the mean score, nats per unit weight, and the mean in-context score, nats.

    Args:
        out: the folder of an audit with probing, any fsspec URL.
        audit: that lies there.

    Raises:
        StoreError: a file is missing or damaged.
    """
    scores = read_scores(out, ["scores", "probing"])
    influence, probing = (
        matrix(scores[name], len(audit.sources)).mean(axis=0).tolist() for name in ("scores", "probing")
    )
    return list(zip(influence, probing, strict=True))
