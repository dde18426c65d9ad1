"""The prober: a process with the model and all documents of the corpus, beside the readout shards of a copy."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from dist_attr.config import ProbeConfig, ServiceConfig
from dist_attr.errors import StoreError
from dist_attr.probing import Passages, Prober
from dist_attr.readout import Query
from dist_attr.serving.lasting import ASIDE
from dist_attr.serving.probe_answers import probed_query
from dist_attr.serving.probe_schemas import ProbedQuery
from dist_attr.store import open_store


class ProbingActor:
    """Puts documents before prompts. It reads them, and the model, when it is first asked, and again after each death.

    Args:
        config: of the service.
        probing: how documents go into the prompt.
        identity: of the store; what lies at its URL may have changed before the prober is started.
    """

    def __init__(self, config: ServiceConfig, probing: ProbeConfig, identity: str) -> None:
        self._config, self._probing, self._identity = config, probing, identity
        self._loaded: tuple[Prober, Passages] | None = None
        # Ray counts no CPU for it, and would leave it one thread.
        torch.set_num_threads(max(1, int(config.cpus)))

    def load(self) -> int:
        """Read the model and the documents, unless they are there; returns the tokens of a window.

        Raises:
            CorpusError: the documents are missing, or are not those of the run.
            StoreError: it is another store, or the model is not its own.
        """
        return self._ready()[0].window

    def probe(
        self, queries: Sequence[Query], probing: ProbeConfig, sources: Sequence[str], tokens: bool, seconds: float
    ) -> list[ProbedQuery]:
        """What documents of some sources do to queries.

        Raises:
            QueryError: a query does not fit the context, or has nothing to score.
            TimeoutError: it took longer than `seconds`; what is in the cache by then is kept.
        """
        until = time.monotonic() + seconds
        prober, passages = self._ready()
        chosen = [passages.choose(query, probing, sources) for query in queries]

        def in_time(_: int) -> None:
            if time.monotonic() > until:
                raise TimeoutError

        found = prober.probe(queries, chosen, in_time)
        return [
            probed_query(query, probe, sources, prober.tokenizer, tokens=tokens)
            for query, probe in zip(queries, found, strict=True)
        ]

    def bm25(self, queries: Sequence[Query], sources: Sequence[str]) -> NDArray[np.float64]:
        """How like each query the most similar window of each source is, (queries, sources)."""
        _, passages = self._ready()
        columns = [passages.sources.index(source) for source in sources]
        return np.stack([passages.bm25(query)[columns] for query in queries])

    @ray.method(concurrency_group=ASIDE)
    def facts(self) -> None:
        """It is there; also while it computes."""

    def _ready(self) -> tuple[Prober, Passages]:
        if self._loaded is None:
            config = self._config
            store = open_store(config.store)
            if store.manifest.identity != self._identity:
                raise StoreError(
                    f"what lies at {config.store} is no longer the store {self._identity}; start the service again"
                )
            prober = Prober.of(store, self._probing, model=config.model)
            self._loaded = prober, Passages.of(store, prober.tokenizer, prober.window, corpus=config.corpus)
        return self._loaded
