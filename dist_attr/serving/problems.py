"""Errors as problem+json (RFC 9457)."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from dist_attr.errors import BusyError, ConfigError, CorpusError, DistAttrError, QueryError, UnavailableError
from dist_attr.serving.schemas import Problem

LOG = logging.getLogger("dist_attr.serving")
MEDIA_TYPE = "application/problem+json"


def problem_of(error: Exception, request_id: str | None) -> tuple[Problem, dict[str, str]]:
    """What is said of an error, and the headers that go with it.

    What no user can do anything about is logged, with its traceback, and not told.
    """
    headers: dict[str, str] = {}
    match error:
        case BusyError():
            status, detail = HTTPStatus.TOO_MANY_REQUESTS, str(error)
            headers["retry-after"] = str(error.retry_after)
        case UnavailableError():
            status, detail = HTTPStatus.SERVICE_UNAVAILABLE, str(error)
            headers["retry-after"] = "2"
        case TimeoutError():
            status = HTTPStatus.GATEWAY_TIMEOUT
            detail = "the answer took longer than the request's timeout; ask for less at once, or wait longer"
        case CorpusError() | ConfigError():  # what its operator gave the service does not allow it
            status, detail = HTTPStatus.CONFLICT, str(error)
        case QueryError():
            status, detail = HTTPStatus.UNPROCESSABLE_ENTITY, str(error)
        case DistAttrError():
            status, detail = HTTPStatus.SERVICE_UNAVAILABLE, str(error)
        case _:
            LOG.error("request %s failed", request_id, exc_info=error)
            status, detail = (
                HTTPStatus.INTERNAL_SERVER_ERROR,
                f"the service failed ({type(error).__name__}); see its log",
            )
    return problem(status, detail, request_id), headers


def problem(status: HTTPStatus, detail: str, request_id: str | None) -> Problem:
    """A problem by its status."""
    return Problem(title=status.phrase, status=status, detail=detail, request_id=request_id)


def answer(found: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    """A problem as a response."""
    return JSONResponse(found.model_dump(), found.status, headers, media_type=MEDIA_TYPE)


def answer_with_problems(api: FastAPI) -> None:
    """Let an application answer with problems; what nobody foresaw goes on to the guard."""

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        detail = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return answer(problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, id_of(request)))

    @api.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        detail = f"{request.method} {request.url.path}: {error.detail}; the API is described at /docs"
        found = problem(HTTPStatus(error.status_code), detail, id_of(request))
        return answer(found, dict(error.headers or {}))

    @api.exception_handler(DistAttrError)
    @api.exception_handler(TimeoutError)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return answer(*problem_of(error, id_of(request)))


def id_of(request: Request) -> str | None:
    """The id that the guard gave a request."""
    return getattr(request.state, "request_id", None)
