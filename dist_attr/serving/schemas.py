"""What goes over HTTP. The OpenAPI page at /docs is made from these."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from dist_attr.config import MethodName, PrecisionName, ReadoutName, Settings
from dist_attr.readout import Query
from dist_attr.store import MeasuredFidelity

MOST_QUERIES = 256  # in a request
EXAMPLE: dict[str, Any] = {
    "queries": [{"prompt": "The state of the union", "completion": " is strong."}],
    "readout": "linear",
    "top": 5,
    "tokens": True,
}
COMPLETION_EXAMPLE: dict[str, Any] = {"prompt": "The state of the union", "max_tokens": 16, "top": 5}
RANK = "reckon the scores from so many directions of the store's readout basis; by default they are exact"


class Options(Settings):
    """What is said of each answer."""

    readout: ReadoutName = "linear"
    rank: int | None = Field(None, ge=1, description=RANK)
    top: int | None = Field(None, ge=1, description="the sources with the largest absolute scores only; all by default")
    tokens: bool = Field(False, description="also the score of every completion token")
    timeout: float | None = Field(
        None, gt=0, le=3600, description="seconds to wait for the answer; at most, and by default, what the service has"
    )

    @model_validator(mode="after")
    def _linear_basis(self) -> Self:
        if self.rank is not None and self.readout == "counterfactual":
            raise ValueError("a basis gives linear scores; ask for the counterfactual readout without a rank")
        return self


class Queries(Settings):
    """One or many queries. A single query may also stand by itself: {"prompt": ..., "completion": ...}."""

    queries: list[Query] = Field(min_length=1, max_length=MOST_QUERIES)

    @model_validator(mode="before")
    @classmethod
    def _single_query(cls, values: Any) -> Any:
        if isinstance(values, dict) and "completion" in values and "queries" not in values:
            query = {key: values[key] for key in Query.model_fields if key in values}
            return {**{key: value for key, value in values.items() if key not in query}, "queries": [query]}
        return values


class AttributionRequest(Queries, Options):
    """One or many queries. A single query may also stand by itself: {"prompt": ..., "completion": ...}."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})


class CompletionRequest(Options):
    """The model answers a prompt, and the answer comes with its attribution. Named as OpenAI's API names things."""

    model_config = ConfigDict(json_schema_extra={"examples": [COMPLETION_EXAMPLE]})

    prompt: str = Field(description="what the model is given", max_length=1_000_000)
    max_tokens: int = Field(32, ge=1, le=4096, description="length of the answer, unless the model ends it before")
    temperature: float = Field(0.0, ge=0, le=2, description="0 takes the likeliest token each time")
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the likeliest tokens that have this probability")
    seed: int | None = Field(None, ge=0, lt=2**63, description="of the draw; none: another answer each time")
    model: str | None = Field(None, description="taken for other clients' sake; there is one model", max_length=200)
    stream: Literal[False] = Field(False, description="answers are not streamed: scores are of whole answers")
    n: Literal[1] = Field(1, description="one answer")


class StoreIdentity(Settings):
    """Where the scores come from."""

    identity: str
    created: str
    method: MethodName
    model: str = Field(description="sha256 of the trained parameters")
    tokenizer: str = Field(description="sha256 of the tokenizer")
    corpus: str = Field(description="sha256 of the documents")


class BasisFidelity(Settings):
    """What a score from a readout basis leaves out; each score's own `error` says how much that is of it."""

    rank: int
    energy: float = Field(description="share of the calibration queries' sum of squares that the whole basis keeps")


class Fidelity(Settings):
    """How far the scores can be trusted."""

    measured: list[MeasuredFidelity] = Field(description="against retraining; empty: nobody has measured it")
    coverage: float = Field(description="share of the model's parameters that carry tangents")
    codec: str = Field(description="what the store keeps of a tangent's numbers: float32, bfloat16, int8 or int4")
    precision: PrecisionName = Field(description="of the readout's arithmetic")
    precision_error: float | None = Field(
        description="root mean square error of token scores by that arithmetic, relative to their own root mean "
        "square, as measured on this model when the service started; none: it is float32's own"
    )
    basis: BasisFidelity | None = Field(None, description="none: scores are not from a basis")


class SourceScore(Settings):
    """What a source did to an answer."""

    source: str
    score: float = Field(description="nats per unit source weight; positive: the source made the answer likelier")
    error: float | None = Field(
        None, description="standard error of a score reckoned from a basis; none if it is exact"
    )
    token_scores: list[float] | None = Field(None, description="the score of each completion token")
    token_errors: list[float] | None = Field(None, description="their standard errors; none if they are exact")


class AttributedQuery(Settings):
    """The answer to one query."""

    tokens: list[str] = Field(description="of the completion")
    token_logprobs: list[float] = Field(description="log-probability of each, in nats")
    logprob: float = Field(description="their sum")
    baseline_logprob: float | None = Field(
        None, description="that of the baseline; scores are then differences, token scores are not"
    )
    sources: list[SourceScore] = Field(description="from the strongest proponent to the strongest opponent")


class AnswerFacts(Settings):
    """What is true of all results of an answer."""

    store: StoreIdentity
    readout: ReadoutName
    rank: int | None = Field(None, description="directions of the basis that the scores are from; none if exact")
    fidelity: Fidelity


class AttributionResponse(AnswerFacts):
    """Answers in the order of the queries."""

    results: list[AttributedQuery]


class StreamedLine(Settings):
    """A line of NDJSON: first the facts, then a result for each query in order, at last `done`.

    An answer without a last line, or whose last line is a problem, is not whole.
    """

    facts: AnswerFacts | None = None
    index: int | None = None
    result: AttributedQuery | None = None
    done: int | None = Field(None, description="how many results there were")
    problem: Problem | None = None


class ChoiceLogprobs(Settings):
    """Of the answer's tokens."""

    tokens: list[str]
    token_logprobs: list[float]


class Choice(Settings):
    """The model's answer."""

    index: int = 0
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: ChoiceLogprobs


class Usage(Settings):
    """In tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionResponse(Settings):
    """An answer as OpenAI's API gives it, and its attribution."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="seconds since 1970")
    model: str
    choices: list[Choice]
    usage: Usage
    attribution: AttributionResponse


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


class ProbingState(Settings):
    """What in-context probing there is."""

    documents: int = Field(description="of each source, unless a request says otherwise")
    choose: Literal["bm25", "random"]
    most_probes: int = Field(description="queries x sources x documents of a request, at most")
    refused: str | None = Field(description="why there is none now, and what to do; none as far as is known")


class StoreResponse(Settings):
    """What is served."""

    store: StoreIdentity
    sources: int
    parameters: int = Field(description="of the model that carry tangents")
    context: int = Field(description="tokens of prompt and completion together, at most")
    shards: int
    exact: bool = Field(description="whether every source can be read out; if not, a rank is needed")
    basis: BasisFidelity | None = Field(None, description="the largest rank that can be asked for")
    timeout: float = Field(description="longest time for an answer, seconds")
    probing: ProbingState | None = Field(description="none: the service was started without")
    versions: dict[str, str] = Field(description="of the software the store was made with")
    fidelity: Fidelity


class Health(Settings):
    """The service answers; `shards` of them, when it was asked whether it is ready."""

    status: Literal["ok"] = "ok"
    shards: int | None = None


class Problem(Settings):
    """An error, RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str | None = None


StreamedLine.model_rebuild()
