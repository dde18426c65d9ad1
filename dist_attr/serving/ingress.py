"""The HTTP side: checks a request, asks all shards, puts their answers together."""

# Without `from __future__ import annotations`: FastAPI would look up the names of the annotations in the replica's copy
# of this class, which carries only the names its code uses.

import asyncio
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray import serve
from ray.serve.handle import DeploymentHandle

from dist_attr.errors import DistAttrError, QueryError
from dist_attr.readout import Attribution
from dist_attr.serving.answers import response, store_identity
from dist_attr.serving.schemas import (
    AttributionRequest,
    AttributionResponse,
    Health,
    Problem,
    SourceInfo,
    SourcesResponse,
)
from dist_attr.store import open_store

PROBLEMS: dict[int | str, dict[str, Any]] = {
    422: {"model": Problem, "description": "the request is not valid, or a query cannot be scored"},
    503: {"model": Problem, "description": "a shard does not answer"},
}
api = FastAPI(title="dist_attr", description="Which sources of the training data made the model say this?")


def _problem(status: HTTPStatus, detail: str) -> JSONResponse:
    problem = Problem(title=status.phrase, status=status, detail=detail)
    return JSONResponse(problem.model_dump(), status, media_type="application/problem+json")


@api.exception_handler(RequestValidationError)
async def _invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
    detail = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
    return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail)


@api.exception_handler(Exception)
async def _failed(_: Request, error: Exception) -> JSONResponse:
    # An error of a shard arrives wrapped; its cause is the error as it was raised there.
    cause = getattr(error, "cause", error)
    if isinstance(cause, DistAttrError):
        return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(cause))
    return _problem(HTTPStatus.SERVICE_UNAVAILABLE, f"the service could not answer: {type(cause).__name__}")


@serve.deployment(health_check_period_s=5, max_ongoing_requests=100)
@serve.ingress(api)
class Ingress:
    """Stateless: any number of replicas may run before the same shards."""

    def __init__(self, store: str, shards: list[DeploymentHandle[Any]]) -> None:
        self._shards = shards
        self._store = open_store(store)
        self._identity = store_identity(self._store)

    @api.post("/v1/attributions", responses=PROBLEMS)
    async def attributions(self, request: AttributionRequest) -> AttributionResponse:
        """Which sources made these completions likelier, and which less likely."""
        if request.rank is not None:
            raise QueryError(
                "the service reads out every source; leave out the rank, or ask with dist-attr query STORE"
            )
        parts: list[Attribution] = await asyncio.gather(
            *(
                shard.attribute.remote(self._identity.identity, request.queries, request.readout)
                for shard in self._shards
            )
        )
        return response(self._store, parts, request)

    @api.get("/v1/sources", responses=PROBLEMS)
    async def sources(self) -> SourcesResponse:
        """The sources that can be credited."""
        records = self._store.records
        return SourcesResponse(
            store=self._identity,
            sources=[
                SourceInfo(source=r.name, documents=r.documents, tokens=r.tokens, trained_tokens=r.trained_tokens)
                for r in records
                if r.failed is None
            ],
        )

    @api.get("/healthz", responses=PROBLEMS)
    async def healthz(self) -> Health:
        """Whether every shard answers, and for this store."""
        held = await asyncio.wait_for(asyncio.gather(*(shard.ready.remote() for shard in self._shards)), timeout=5)
        if set(held) != {self._identity.identity}:
            raise RuntimeError("the shards hold different stores")
        return Health(status="ok", shards=len(held))
