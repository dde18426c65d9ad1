"""What goes over HTTP. The OpenAPI page at /docs is made from these."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from dist_attr.config import MethodName, ReadoutName, Settings
from dist_attr.readout import Query

EXAMPLE: dict[str, Any] = {
    "queries": [{"prompt": "The state of the union", "completion": " is strong."}],
    "readout": "linear",
    "top": 5,
    "tokens": True,
}


class AttributionRequest(Settings):
    """One or many queries. A single query may also stand by itself: {"prompt": ..., "completion": ...}."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    queries: list[Query] = Field(min_length=1, max_length=256)
    readout: ReadoutName = "linear"
    rank: int | None = Field(
        None,
        ge=1,
        description="reckon the scores from so many directions of the store's readout basis; by default they are exact",
    )
    top: int | None = Field(None, ge=1, description="the sources with the largest absolute scores only; all by default")
    tokens: bool = Field(False, description="also the score of every completion token")

    @model_validator(mode="before")
    @classmethod
    def _single_query(cls, values: Any) -> Any:
        if isinstance(values, dict) and "completion" in values and "queries" not in values:
            rest = {key: value for key, value in values.items() if key not in ("prompt", "completion")}
            return {**rest, "queries": [{key: values[key] for key in ("prompt", "completion") if key in values}]}
        return values


class StoreIdentity(Settings):
    """Where the scores come from."""

    identity: str
    created: str
    method: MethodName
    model: str = Field(description="sha256 of the trained parameters")
    tokenizer: str = Field(description="sha256 of the tokenizer")
    corpus: str = Field(description="sha256 of the documents")
    coverage: float = Field(description="share of the model's parameters that carry tangents")


class SourceScore(Settings):
    """What a source did to an answer."""

    source: str
    score: float = Field(description="nats per unit source weight; positive: the source made the answer likelier")
    error: float | None = Field(
        None, description="standard error of a score reckoned from a basis; none if it is exact"
    )
    token_scores: list[float] | None = Field(None, description="the same for each completion token")


class AttributedQuery(Settings):
    """The answer to one query."""

    tokens: list[str] = Field(description="of the completion")
    token_logprobs: list[float] = Field(description="log-probability of each, in nats")
    logprob: float = Field(description="their sum")
    sources: list[SourceScore] = Field(description="from the strongest proponent to the strongest opponent")


class AttributionResponse(Settings):
    """Answers in the order of the queries."""

    store: StoreIdentity
    readout: ReadoutName
    rank: int | None = Field(None, description="directions of the basis that the scores are from; none if exact")
    results: list[AttributedQuery]


class SourceInfo(Settings):
    """A source the store has a tangent of."""

    source: str
    documents: int
    tokens: int
    trained_tokens: int = Field(description="targets of this source in the run's steps, repeats counted")


class SourcesResponse(Settings):
    """All sources of the store."""

    store: StoreIdentity
    sources: list[SourceInfo]


class Health(Settings):
    """Every shard answers."""

    status: str
    shards: int


class Problem(Settings):
    """An error, RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
