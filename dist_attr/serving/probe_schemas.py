"""What goes over HTTP of in-context probing, and of its comparison with influence."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from dist_attr.config import Settings
from dist_attr.probing import Agreement
from dist_attr.serving.schemas import AnswerFacts, AttributedQuery, Options, Queries, StoreIdentity

StatisticName = Literal["mean", "median", "best"]
PROBE_EXAMPLE: dict[str, Any] = {
    "queries": [{"prompt": "The state of the union", "completion": " is strong."}],
    "documents": 2,
    "tokens": True,
}


class ProbeOptions(Settings):
    """Which documents go before the prompt, and what is said of it. Documents are those that the run trained on."""

    documents: int | None = Field(None, ge=1, le=64, description="of each source; by default what the service has")
    choose: Literal["bm25", "random"] | None = Field(
        None,
        description="the documents most like the query, or random ones, the same for all queries; by default what the "
        "service has",
    )
    seed: int | None = Field(None, ge=0, lt=2**63, description="of the random choice; by default what the service has")
    sources: list[str] | None = Field(None, min_length=1, description="only these; all by default")
    tokens: bool = Field(False, description="also the score of every completion token")
    timeout: float | None = Field(
        None, gt=0, le=3600, description="seconds to wait for the answer; at most, and by default, what the service has"
    )


class ProbeRequest(Queries, ProbeOptions):
    """One or many queries. A single query may also stand by itself: {"prompt": ..., "completion": ...}."""

    model_config = ConfigDict(json_schema_extra={"examples": [PROBE_EXAMPLE]})


class ComparisonRequest(Queries, ProbeOptions, Options):
    """One or many queries, as for attributions and probes; `top` cuts the list of each attribution alone."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**PROBE_EXAMPLE, "statistic": "mean"}]})

    statistic: StatisticName = Field("mean", description="of a source's documents, to be compared with its influence")


class ProbingFacts(Settings):
    """How documents were chosen and put before the prompt."""

    documents: int = Field(description="of each source, fewer only of a source that has fewer windows")
    choose: Literal["bm25", "random"]
    seed: int = Field(description="of the random choice")
    window: int = Field(description="tokens; a document that is longer goes into the prompt one window of it at a time")
    template: str = Field(description="where the document and the prompt stand")
    chat: bool = Field(description="whether that is a user's message in the model's chat template")


class ProbedSource(Settings):
    """What a source's documents in the prompt did to an answer, in nats."""

    source: str
    mean: float = Field(description="over its documents; positive: they made the answer likelier")
    median: float
    best: float
    documents: int = Field(description="that it was probed with")


class ProbedDocument(Settings):
    """What one document in the prompt did to an answer."""

    source: str
    document: str = Field(description="its id")
    window: int = Field(description="which part of the document, from 0")
    windows: int = Field(description="of so many")
    length: int = Field(description="tokens of it that went into the prompt")
    score: float = Field(description="log p(completion | document, prompt) - log p(completion | prompt), nats")
    token_scores: list[float] | None = Field(None, description="the score of each completion token")
    excerpt: str = Field(description="the beginning of what went into the prompt")


class ProbedQuery(Settings):
    """The answer to one query."""

    tokens: list[str] = Field(description="of the completion")
    token_logprobs: list[float] = Field(description="log-probability of each without a document, nats")
    logprob: float = Field(description="their sum")
    sources: list[ProbedSource] = Field(description="from the largest mean to the smallest")
    documents: list[ProbedDocument] = Field(description="from the one that made it likeliest to the opposite")


class GoldenScore(Settings):
    """How many queries a document helped."""

    source: str
    document: str
    window: int
    queries: int = Field(description="of the request that were probed with it: all of them, where the choice is random")
    share: float = Field(description="of these, those whose completion it made likelier")


class ProbeResponse(Settings):
    """Answers in the order of the queries."""

    store: StoreIdentity
    probing: ProbingFacts
    results: list[ProbedQuery]
    golden: list[GoldenScore] = Field(description="of every document used, from the largest share to the smallest")


class ComparedQuery(Settings):
    """What both say of one query."""

    attribution: AttributedQuery
    probe: ProbedQuery


class ComparisonResponse(AnswerFacts):
    """Influence and in-context probing of the same queries and sources by the same model."""

    probing: ProbingFacts
    statistic: StatisticName
    results: list[ComparedQuery] = Field(description="in the order of the queries")
    agreement: Agreement = Field(
        description="of the rankings of the sources. Controlled for are `bm25`, how like the query the source's most "
        "similar document is, and `tokens`, the mean length of what went into the prompt"
    )
