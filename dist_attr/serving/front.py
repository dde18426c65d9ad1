"""What an ingress does for a request: lets it in, has it answered, and asks again where whoever answered is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from dist_attr.config import ServiceConfig
from dist_attr.errors import BusyError, UnavailableError
from dist_attr.readout import Attribution, Query, Sampling
from dist_attr.serving.admission import Admission
from dist_attr.serving.metrics import IngressMetrics
from dist_attr.serving.probe_schemas import ComparisonRequest, ComparisonResponse, ProbeRequest, ProbeResponse
from dist_attr.serving.readout import Generated
from dist_attr.serving.schemas import AnswerFacts, Options, SourcesResponse, StoreResponse

T = TypeVar("T")
AGAIN = 3  # times that a request is asked again
PAUSE = 0.3  # seconds before that
GRACE = 2.0  # seconds beyond a request's timeout, for whoever answers to say so itself
ASIDE_SECONDS = 10.0  # for what takes no readout


class Front:
    """Answers requests through a deployment of `Readout`.

    Args:
        config: of the service.
        readout: the deployment.
        metrics: where it counts.
    """

    def __init__(self, config: ServiceConfig, readout: DeploymentHandle[Any], metrics: IngressMetrics) -> None:
        self._config, self._readout, self._metrics = config, readout, metrics
        self._admission = Admission(config.most_waiting, "queries")
        metrics.admitted.set_function(lambda: self._admission.admitted)

    async def attribute(
        self, queries: Sequence[Query], options: Options
    ) -> AsyncGenerator[AnswerFacts | Attribution, None]:
        """First what is true of the whole answer, then the attributions of all queries, in order, some at a time.

        Raises:
            BusyError: too many queries are being answered.
            TimeoutError: it took too long.
            DistAttrError: as `Readout.attribute` raises it.
        """
        timeout, done, facts, failures = self._timeout(options), 0, None, 0
        deadline = asyncio.get_running_loop().time() + timeout
        with self._admission.let_in(len(queries)):
            while True:
                left = deadline - asyncio.get_running_loop().time()
                stream: Any = self._readout.options(stream=True).attribute.remote(queries[done:], options, left)
                try:
                    async with asyncio.timeout(left + GRACE):
                        async for part in stream:
                            if isinstance(part, Attribution):
                                done += len(part.tokens)
                                yield part
                            elif facts is None:
                                facts = part
                                yield part
                            elif part.store != facts.store:
                                raise UnavailableError("the store was changed in the middle of the answer; ask again")
                    return
                except Exception as error:  # noqa: BLE001  some of them mean that another may answer
                    failures = await self._again(error, failures)

    async def complete(self, prompt: str, sampling: Sampling, options: Options) -> Generated:
        """The model's answer with its attribution. Raises as `attribute` does."""
        timeout = self._timeout(options)
        with self._admission.let_in(1):
            return await self._call(
                lambda: self._readout.complete.remote(prompt, sampling, options, timeout), timeout + GRACE
            )

    async def probe(self, asked: ProbeRequest) -> ProbeResponse:
        """What documents in the prompt do to completions. Raises as `Readout.probe` does."""
        timeout = self._timeout(asked)
        return await self._call(lambda: self._readout.probe.remote(asked, timeout), timeout + GRACE)

    async def compare(self, asked: ComparisonRequest) -> ComparisonResponse:
        """Influence and in-context probing side by side. Raises as `Readout.compare` does."""
        timeout = self._timeout(asked)
        with self._admission.let_in(len(asked.queries)):
            return await self._call(lambda: self._readout.compare.remote(asked, timeout), timeout + GRACE)

    async def describe(self) -> StoreResponse:
        """What is served."""
        return await self._call(lambda: self._readout.describe.remote(), ASIDE_SECONDS)

    async def sources(self) -> SourcesResponse:
        """The sources that can be credited."""
        return await self._call(lambda: self._readout.sources.remote(), ASIDE_SECONDS)

    async def shards(self) -> int:
        """How many shards answer. Raises UnavailableError unless all do, soon."""
        try:
            async with asyncio.timeout(ASIDE_SECONDS):
                return int(await self._readout.ready.remote())
        except Exception as error:
            raise UnavailableError("not all shards answer") from error

    async def _call(self, ask: Callable[[], Awaitable[T]], seconds: float) -> T:
        failures = 0
        async with asyncio.timeout(seconds):
            while True:
                try:
                    return await ask()
                except Exception as error:  # noqa: BLE001  as above
                    failures = await self._again(error, failures)

    async def _again(self, error: Exception, failures: int) -> int:
        """Waits before another is asked, and counts; raises the error if that is no use."""
        if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
            raise error.cause
        if isinstance(error, BackPressureError):
            raise BusyError("the service has more requests than it can answer", self._admission.wait()) from error
        if not isinstance(error, RayActorError | DeploymentUnavailableError) or failures == AGAIN:
            raise error
        self._metrics.retried.inc()
        await asyncio.sleep(PAUSE * 2**failures)
        return failures + 1

    def _timeout(self, options: Options | ProbeRequest) -> float:
        return min(options.timeout or self._config.timeout, self._config.timeout)
