"""Asking a running service."""

from __future__ import annotations

import httpx
from pydantic import ValidationError

from dist_attr.errors import QueryError
from dist_attr.serving.schemas import AttributionRequest, AttributionResponse


def ask(endpoint: str, request: AttributionRequest, timeout: float = 300.0) -> AttributionResponse:
    """The answer of the service at a URL such as http://127.0.0.1:8000.

    Raises:
        QueryError: it is not reached, it refuses the request, or what answers is not this service.
    """
    url = f"{endpoint.rstrip('/')}/v1/attributions"
    try:
        answer = httpx.post(url, json=request.model_dump(mode="json"), timeout=timeout)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise QueryError(f"no service answers at {url}: {error}") from error
    if answer.is_error:
        problem = answer.headers.get("content-type", "").startswith("application/problem+json")
        raise QueryError(answer.json()["detail"] if problem else f"{url} answered {answer.status_code}: {answer.text}")
    try:
        return AttributionResponse.model_validate_json(answer.text)
    except ValidationError as error:
        raise QueryError(f"what answers at {url} is not a dist_attr service: {error}") from error
