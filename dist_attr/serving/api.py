"""The routes."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from dist_attr.config import ServiceConfig
from dist_attr.readout import Attribution, Sampling
from dist_attr.serving.answers import attributed_queries, whole
from dist_attr.serving.front import Front
from dist_attr.serving.guard import Guard, read_keys
from dist_attr.serving.metrics import IngressMetrics
from dist_attr.serving.page import page_router
from dist_attr.serving.probe_schemas import ComparisonRequest, ComparisonResponse, ProbeRequest, ProbeResponse
from dist_attr.serving.problems import MEDIA_TYPE, answer_with_problems, id_of, problem_of
from dist_attr.serving.schemas import (
    AnswerFacts,
    AttributionRequest,
    AttributionResponse,
    Choice,
    ChoiceLogprobs,
    CompletionRequest,
    CompletionResponse,
    Health,
    Problem,
    SourcesResponse,
    StoreResponse,
    StreamedLine,
    Usage,
)

NDJSON = "application/x-ndjson"
REFUSALS = {
    400: "the body is not JSON in UTF-8",
    401: "a key is needed, and none or another was given",
    408: "the body did not arrive in time",
    409: "of probes: the service has no documents, others than the run's, or was started without probing",
    413: "the body is too large",
    422: "the request is not valid, or a query cannot be scored",
    429: "too much is asked at once; Retry-After says when to ask again",
    500: "a defect of the service",
    503: "the shards do not answer; Retry-After says when to ask again",
    504: "the answer took longer than the timeout",
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for status, description in REFUSALS.items()
}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {NDJSON: {"schema": {"$ref": "#/components/schemas/StreamedLine"}}}}
}


def build_api(
    config: ServiceConfig, front: Front, metrics: IngressMetrics, all_metrics: Callable[[], Awaitable[bytes]]
) -> FastAPI:
    """The application that an ingress runs.

    Args:
        config: of the service.
        front: answers.
        metrics: where requests are counted.
        all_metrics: the counts of all processes, for Prometheus.

    Raises:
        ConfigError: the keys cannot be read.
    """
    api = FastAPI(
        title="dist_attr",
        description="Which sources of the training data made the model say this?",
        responses=PROBLEMS,
    )
    answer_with_problems(api)
    api.include_router(page_router)
    api.add_middleware(Guard, keys=read_keys(config.keys_file), most_bytes=config.most_bytes, metrics=metrics)

    @api.post("/v1/attributions", response_model=AttributionResponse, responses=STREAMED)
    async def attributions(asked: AttributionRequest, request: Request) -> Any:
        """Which sources made these completions likelier, and which less likely.

        With `Accept: application/x-ndjson` results come one a line, as they are known: first a line with `facts`, then
        one with `index` and `result` for each query in order, at last one with `done`. Without the last line, or with
        a `problem` in its place, the answer is not whole.
        """
        if NDJSON in request.headers.get("accept", ""):
            lines = streamed(front, asked, id_of(request))
            # An error before the first line has a status of its own.
            first = await anext(lines)
            return StreamingResponse(after(first, lines), media_type=NDJSON)
        facts, results = None, []
        async for part in front.attribute(asked.queries, asked):
            if isinstance(part, Attribution):
                results += attributed_queries(part, asked)
            else:
                facts = part
        assert facts is not None and len(results) == len(asked.queries)
        return whole(facts, results)

    @api.post("/v1/completions")
    async def completions(asked: CompletionRequest) -> CompletionResponse:
        """The model answers a prompt, and the answer comes with its attribution."""
        sampling = Sampling(asked.max_tokens, asked.temperature, asked.top_p, asked.seed)
        found = await front.complete(asked.prompt, sampling, asked)
        attribution = whole(found.facts, attributed_queries(found.attribution, asked))
        result = attribution.results[0]
        return CompletionResponse(
            id=f"cmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=found.facts.store.model,
            choices=[
                Choice(
                    text=found.text,
                    finish_reason="stop" if found.ended else "length",
                    logprobs=ChoiceLogprobs(tokens=result.tokens, token_logprobs=result.token_logprobs),
                )
            ],
            usage=Usage(
                prompt_tokens=found.prompt_tokens,
                completion_tokens=len(result.tokens),
                total_tokens=found.prompt_tokens + len(result.tokens),
            ),
            attribution=attribution,
        )

    @api.post("/v1/probes")
    async def probes(asked: ProbeRequest) -> ProbeResponse:
        """What the sources' documents do to these completions when they stand in the prompt."""
        return await front.probe(asked)

    @api.post("/v1/comparisons")
    async def comparisons(asked: ComparisonRequest) -> ComparisonResponse:
        """Influence and in-context probing of the same queries, and how far they agree on the sources."""
        return await front.compare(asked)

    @api.get("/v1/sources")
    async def sources() -> SourcesResponse:
        """The sources that can be credited."""
        return await front.sources()

    @api.get("/v1/store")
    async def store() -> StoreResponse:
        """What is served, and how far it can be trusted."""
        return await front.describe()

    @api.get("/healthz")
    async def healthz() -> Health:
        """This process answers."""
        return Health()

    @api.get("/readyz")
    async def readyz() -> Health:
        """All shards answer."""
        return Health(shards=await front.shards())

    @api.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """For Prometheus: latency by stage, queues, sizes of batches, errors; of every process of the service."""
        return Response(await all_metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    _describe_all(api)
    return api


async def streamed(front: Front, asked: AttributionRequest, request_id: str | None) -> AsyncGenerator[bytes, None]:
    """The lines of an answer; an error after the first of them is the last line."""
    begun, index = False, 0
    try:
        async for part in front.attribute(asked.queries, asked):
            if isinstance(part, AnswerFacts):
                begun = True
                yield line(StreamedLine(facts=part))
                continue
            for result in attributed_queries(part, asked):
                yield line(StreamedLine(index=index, result=result))
                index += 1
        yield line(StreamedLine(done=index))
    except Exception as error:
        if not begun:
            raise
        yield line(StreamedLine(problem=problem_of(error, request_id)[0]))


def line(found: StreamedLine) -> bytes:
    """A line of NDJSON, without the fields of other lines."""
    return found.model_dump_json(exclude_unset=True).encode() + b"\n"


async def after(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """All lines."""
    yield first
    async for other in rest:
        yield other


def _describe_all(api: FastAPI) -> None:
    """Put what no route names into the OpenAPI page: problems, the lines of a stream, and keys."""
    made = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            page = made()
            schemas = page.setdefault("components", {}).setdefault("schemas", {})
            for model in (Problem, StreamedLine):
                described = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(described.pop("$defs", {}))
                schemas[model.__name__] = described
            page["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            page["security"] = [{}, {"key": []}]
        return dict(api.openapi_schema or {})

    api.openapi = openapi  # type: ignore[method-assign]
