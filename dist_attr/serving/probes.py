"""In-context probing by one copy: the prober, asked by one request after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_attr.config import ProbeConfig, ServiceConfig
from dist_attr.errors import ConfigError, DistAttrError, QueryError, UnavailableError
from dist_attr.readout import Query
from dist_attr.serving.admission import Admission
from dist_attr.serving.apart import apart
from dist_attr.serving.lasting import Lasting
from dist_attr.serving.metrics import ReadoutMetrics
from dist_attr.serving.probe_schemas import ProbedQuery, ProbeOptions, ProbingFacts
from dist_attr.serving.prober import ProbingActor
from dist_attr.serving.schemas import ProbingState
from dist_attr.store import InfluenceStore

PATIENCE = 10.0  # seconds that a request waits for the prober to read its documents, before it is told to come again
AGAIN = 10.0  # seconds after which what kept the prober from starting may have been mended


class Probes:
    """Probes queries with documents. The prober is started at the first request.

    Args:
        config: of the service.
        store: what is served.
        gpus: of the prober.
        metrics: where it counts.
        stage: times a stage of the work.
    """

    def __init__(
        self,
        config: ServiceConfig,
        store: InfluenceStore,
        gpus: float,
        metrics: ReadoutMetrics,
        stage: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._config, self._store, self._gpus, self._metrics, self._stage = config, store, gpus, metrics, stage
        self._admission = Admission(config.most_probes, "probes")
        metrics.probing.set_function(lambda: self._admission.admitted)
        self._turn = asyncio.Lock()  # fair: who has waited longest is next
        self._prober: Lasting | None = None
        self._loading: asyncio.Task[int] | None = None
        self._refused: str | None = None  # why it could not be loaded
        self._refused_at = 0.0

    def state(self) -> ProbingState | None:
        """What there is of it."""
        own = self._config.probing
        if own is None:
            return None
        return ProbingState(
            documents=own.documents, choose=own.choose, most_probes=self._config.most_probes, refused=self._refused
        )

    async def probe(
        self, queries: Sequence[Query], options: ProbeOptions, deadline: float
    ) -> tuple[ProbingFacts, list[ProbedQuery]]:
        """What documents do to queries.

        Args:
            queries: what is asked.
            options: which documents, and what is said of them.
            deadline: by the event loop's clock.

        Raises:
            ConfigError: this service does not probe.
            CorpusError: the documents are missing, or are not those of the run.
            QueryError: too much is asked, of an unknown source, or a query cannot be probed; then none is.
            BusyError: too much is being answered.
            TimeoutError: the deadline has passed.
            UnavailableError: the prober is being started, or does not answer.
        """
        probing, sources = self._probing(options), self.sources(options)
        work = len(queries) * len(sources) * probing.documents
        if work > self._config.most_probes:
            raise QueryError(
                f"{len(queries)} queries x {len(sources)} sources x {probing.documents} documents are {work:,} probes; "
                f"the service takes {self._config.most_probes:,} in a request: ask with fewer documents, name some "
                "sources, or split the queries"
            )
        with self._admission.let_in(work):
            async with asyncio.timeout_at(deadline):
                window = await self._ready()
                found = await self._ask("probe", list(queries), probing, sources, options.tokens, until=deadline)
            self._metrics.probes.inc(work)
        facts = ProbingFacts(
            **{name: getattr(probing, name) for name in ("documents", "choose", "seed", "template", "chat")},
            window=window,
        )
        return facts, found

    async def bm25(self, queries: Sequence[Query], sources: Sequence[str], deadline: float) -> NDArray[np.float64]:
        """How like each query each source's most similar window is, (queries, sources). Raises as `probe` does."""
        async with asyncio.timeout_at(deadline):
            found: NDArray[np.float64] = await self._ask("bm25", list(queries), list(sources))
        return found

    def sources(self, options: ProbeOptions) -> list[str]:
        """Those that are asked for, in the store's order. Raises QueryError where one is unknown."""
        if options.sources is None:
            return list(self._store.sources)
        wanted = set(options.sources)
        for source in options.sources:
            if source not in self._store.sources:
                raise QueryError(f"there is no source {source!r} in the store; GET /v1/sources lists them")
        return [source for source in self._store.sources if source in wanted]

    def _probing(self, options: ProbeOptions) -> ProbeConfig:
        own = self._config.probing
        if own is None:
            raise ConfigError("this service does not probe; its operator can start it with `probing`")
        asked = {name: getattr(options, name) for name in ("documents", "choose", "seed")}
        return own.model_copy(update={name: value for name, value in asked.items() if value is not None})

    async def _ask(self, method: str, *arguments: Any, until: float | None = None) -> Any:
        """Call a method of the prober; its last argument are the seconds that are left, if there is an end to them."""
        assert self._prober is not None
        with self._stage("turn"):
            await self._turn.acquire()
        try:
            left = [] if until is None else [until - asyncio.get_running_loop().time()]
            with self._stage("probe"):
                return await self._prober.ask(method, *arguments, *left)
        finally:
            self._turn.release()

    async def _ready(self) -> int:
        """The tokens of a window, once the prober has read its documents."""
        if self._loading is None or (self._refused is not None and time.monotonic() - self._refused_at > AGAIN):
            self._refused = None
            self._loading = apart(self._load())
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(self._loading)
        except TimeoutError as error:
            raise UnavailableError("the prober is reading the model and the documents; ask again") from error

    async def _load(self) -> int:
        if self._prober is None or self._prober.lost is not None:
            self._prober = Lasting(
                "the prober",
                ProbingActor,
                (self._config, self._config.probing, self._store.manifest.identity),
                # It lives in the first shard's bundle: a service needs no more CPUs or GPUs than without it.
                bundle=0,
                cpus=0,
                gpus=self._gpus,
                died=self._dead,
            )
        try:
            with self._stage("load"):
                return int(await self._prober.ask("load"))
        except Exception as error:
            said = isinstance(error, DistAttrError)
            self._refused = str(error) if said else f"the prober failed ({type(error).__name__}); see the log"
            self._refused_at = time.monotonic()
            raise

    def _dead(self) -> None:
        self._metrics.prober_deaths.inc()
        self._loading = None  # Ray starts it again, without what it had read


def gpus_of_prober(config: ServiceConfig, gpus: float) -> float:
    """What the prober takes of the first shard's GPUs.

    Ray gives two actors the same GPU if each asks for a part of it. The parts reserve no memory; the model is on it
    twice. Of several GPUs the shard computes on one anyway.
    """
    if config.probing is None:
        return 0.0
    return gpus / 2 if gpus <= 1 else 1.0
