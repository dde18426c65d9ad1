"""One whole copy of what is served: the shards of a store, and what is reckoned from their answers.

A copy answers for one store, wholly or not at all. Serve starts another copy for another store, or for more load, and
stops one when its requests are answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from ray import serve

from dist_attr.config import ServiceConfig
from dist_attr.corpus import decode, load_tokenizer, token_strings, tokenizer_fingerprint
from dist_attr.errors import QueryError, StoreError
from dist_attr.models import download_folder
from dist_attr.readout import Along, Attribution, EncodedQuery, Query, Sampling, encode_queries
from dist_attr.serving.answers import fidelity, store_identity
from dist_attr.serving.batcher import Batcher, Kind
from dist_attr.serving.metrics import ReadoutMetrics
from dist_attr.serving.probe_answers import compared, golden_scores
from dist_attr.serving.probe_schemas import ComparisonRequest, ComparisonResponse, ProbeRequest, ProbeResponse
from dist_attr.serving.probes import Probes, gpus_of_prober
from dist_attr.serving.schemas import (
    AnswerFacts,
    BasisFidelity,
    Options,
    SourceInfo,
    SourcesResponse,
    StoreResponse,
)
from dist_attr.serving.shards import Shards, whole_basis
from dist_attr.store import open_basis, open_store

TOGETHER = 32  # queries of one request under way at once, so that a large one leaves room for others


@dataclass(frozen=True, eq=False)
class Generated:
    """An answer of the model.

    Attributes:
        text: without the end-of-text token.
        prompt_tokens: tokens of the prompt.
        ended: whether the model ended it itself.
        facts: of its attribution.
        attribution: of this one answer.
    """

    text: str
    prompt_tokens: int
    ended: bool
    facts: AnswerFacts
    attribution: Attribution


@serve.deployment(name="Readout")
class Readout:
    """Answers queries with the shards of a store.

    Args:
        config: of the service.
        gpus: of each bundle of the placement group: of a shard, and of the first one for the prober too.

    Raises:
        StoreError: the store cannot be served.
    """

    async def __init__(self, config: ServiceConfig, gpus: float) -> None:  # type: ignore[misc]  # Serve awaits it
        self._config, self._metrics = config, ReadoutMetrics()
        self._store = store = open_store(config.store)
        basis, hold = open_basis(store), config.hold
        if hold in ("basis", "both") and basis is None:
            raise StoreError(f"{config.store} has no readout basis to hold; make one with dist-attr calibrate")
        held = [name for name in ("sources", "basis") if hold in (None, "both", name)]
        self._held = [name for name in held if name == "sources" or basis is not None]
        beside = store.place.beside("model")
        place = (beside.url, beside.options) if config.model is None else (config.model, None)
        with download_folder(*place, weights=False) as folder:
            self._tokenizer = load_tokenizer(folder, [])
        assert store.manifest.model is not None
        store.check_model(store.manifest.model.weights, tokenizer_fingerprint(self._tokenizer))
        share = gpus_of_prober(config, gpus)
        self._shards = Shards(config, gpus, share, store.manifest.identity, self._held, self._metrics.deaths.inc)
        self._probes = Probes(config, store, share, self._metrics, self._stage)
        facts = await self._shards.facts()
        self._context = facts[0].context
        errors = [of_shard.precision_error for of_shard in facts if of_shard.precision_error is not None]
        self._precision_error = max(errors, default=None)
        self._basis = None if basis is None else whole_basis(facts, basis.manifest.energy)
        self._batcher = Batcher(self._read, self._started)
        self._metrics.waiting.set_function(lambda: len(self._batcher))
        # One thread: tokenizers are not made for several.
        self._encoder = ThreadPoolExecutor(1)

    async def attribute(
        self, queries: Sequence[Query], options: Options, timeout: float
    ) -> AsyncGenerator[AnswerFacts | Attribution, None]:
        """First what is true of the whole answer, then the attributions of the queries, in order, some at a time.

        Raises:
            QueryError: a query cannot be scored; then none is.
            TimeoutError: it took longer than `timeout` seconds.
            UnavailableError: the shards do not answer.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        kind = self._kind(options)
        encoded, against = await self._encode(queries)
        yield self._facts(kind)
        for start in range(0, len(encoded), TOGETHER):
            some = slice(start, start + TOGETHER)
            yield await self._attribution(encoded[some], against[some], kind, deadline)

    async def complete(self, prompt: str, sampling: Sampling, options: Options, timeout: float) -> Generated:
        """Let the model answer, and attribute the answer. Raises as `attribute` does."""
        kind = self._kind(options)
        deadline = asyncio.get_running_loop().time() + timeout
        with self._stage("generate"):
            async with asyncio.timeout_at(deadline):
                query, ended = await self._shards.generate(prompt, sampling)
        found = await self._attribution([query], [None], kind, deadline)
        text = decode(self._tokenizer, query.tokens, query.start)
        return Generated(text, query.start, ended, self._facts(kind), found)

    async def probe(self, asked: ProbeRequest, timeout: float) -> ProbeResponse:
        """What documents in the prompt do to completions. Raises as `Probes.probe` does."""
        deadline = asyncio.get_running_loop().time() + timeout
        await self._encode(asked.queries)
        facts, results = await self._probes.probe(asked.queries, asked, deadline)
        return ProbeResponse(
            store=store_identity(self._store), probing=facts, results=results, golden=golden_scores(results)
        )

    async def compare(self, asked: ComparisonRequest, timeout: float) -> ComparisonResponse:
        """Influence and in-context probing of the same queries. Raises as `attribute` and `Probes.probe` do."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        sources = self._probes.sources(asked)
        if len(sources) < 2:
            raise QueryError("a comparison ranks sources; name two at least")
        self._kind(asked)
        await self._encode(asked.queries)
        probing, probed = await self._probes.probe(asked.queries, asked, deadline)
        bm25 = await self._probes.bm25(asked.queries, sources, deadline)
        parts = [part async for part in self.attribute(asked.queries, asked, deadline - loop.time())]
        return await loop.run_in_executor(None, compared, asked, sources, parts, probing, probed, bm25)

    async def describe(self) -> StoreResponse:
        """What is served."""
        manifest = self._store.manifest
        return StoreResponse(
            store=store_identity(self._store),
            sources=len(self._store.sources),
            parameters=manifest.space.size,
            context=self._context,
            shards=len(self._shards),
            exact="sources" in self._held,
            basis=self._basis_fidelity(),
            timeout=self._config.timeout,
            probing=self._probes.state(),
            versions=manifest.versions,
            fidelity=fidelity(self._store, self._config.precision, self._precision_error),
        )

    async def sources(self) -> SourcesResponse:
        """The sources that can be credited."""
        return SourcesResponse(
            store=store_identity(self._store),
            sources=[
                SourceInfo(source=r.name, documents=r.documents, tokens=r.tokens, trained_tokens=r.trained_tokens)
                for r in self._store.records
                if r.failed is None
            ],
        )

    async def ready(self) -> int:
        """How many shards answer: all, or it waits."""
        return len(await self._shards.facts())

    async def metrics(self) -> tuple[str, str]:
        """The name of this process, and what it counts, in Prometheus' format."""
        return serve.get_replica_context().replica_tag, self._metrics.text()

    def check_health(self) -> None:
        """Serve asks this; it starts a new copy where a shard cannot be started again."""
        if self._shards.lost is not None:
            raise RuntimeError(self._shards.lost)

    def _kind(self, options: Options) -> Kind:
        if options.rank is None:
            if "sources" not in self._held:
                assert self._basis is not None
                raise QueryError(f"this service reads out a basis only; ask with a rank of at most {self._basis.rank}")
        elif self._basis is None:
            raise QueryError("the store has no readout basis; make one with dist-attr calibrate, or leave out the rank")
        elif options.rank > self._basis.rank:
            raise QueryError(f"the rank is {options.rank}, the basis has {self._basis.rank} directions; ask for fewer")
        return Kind(options.readout, options.rank)

    def _facts(self, kind: Kind) -> AnswerFacts:
        basis = None if kind.rank is None else self._basis_fidelity()
        return AnswerFacts(
            store=store_identity(self._store),
            readout=kind.readout,
            rank=kind.rank,
            fidelity=fidelity(self._store, self._config.precision, self._precision_error, basis),
        )

    def _basis_fidelity(self) -> BasisFidelity | None:
        return None if self._basis is None else BasisFidelity(rank=self._basis.rank, energy=self._basis.energy)

    async def _encode(self, queries: Sequence[Query]) -> tuple[list[EncodedQuery], list[EncodedQuery | None]]:
        """The tokens of queries and of their baselines. Raises QueryError where a service does not take them."""
        with self._stage("encode"):
            encoded, against = await asyncio.get_running_loop().run_in_executor(
                self._encoder, encode_queries, queries, self._tokenizer, self._context
            )
        tokens = sum(len(query.tokens) for query in [*encoded, *against] if query is not None)
        if tokens > self._config.most_tokens:
            raise QueryError(
                f"the queries have {tokens:,} tokens together; the service takes {self._config.most_tokens:,} in a "
                "request; split it"
            )
        return encoded, against

    async def _attribution(
        self,
        encoded: Sequence[EncodedQuery],
        against: Sequence[EncodedQuery | None],
        kind: Kind,
        deadline: float,
    ) -> Attribution:
        asked = [*encoded, *(other for other in against if other is not None)]
        tasks = [asyncio.create_task(self._batcher.submit(query, kind, deadline)) for query in asked]
        try:
            read = await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # of the others, when one failed
                task.cancel()
        others = iter(read[len(encoded) :])
        return Attribution.of(
            self._store.sources,
            read[: len(encoded)],
            [token_strings(self._tokenizer, query.completion) for query in encoded],
            None if kind.rank is None else self._basis,
            [None if other is None else next(others) for other in against],
        )

    async def _read(self, queries: Sequence[EncodedQuery], kind: Kind) -> list[Along]:
        with self._stage("read"):
            return await self._shards.read(queries, kind)

    def _started(self, waited: list[float]) -> None:
        self._metrics.batch.observe(len(waited))
        for seconds in waited:
            self._metrics.stages.labels("queue").observe(seconds)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        except Exception as error:
            self._metrics.errors.labels(type(error).__name__).inc()
            raise
        finally:
            self._metrics.stages.labels(name).observe(time.monotonic() - started)
