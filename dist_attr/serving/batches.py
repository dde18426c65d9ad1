"""Any number of queries as requests, and the answers as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypedDict, TypeVar

import httpx
from pydantic import ValidationError

from dist_attr.config import ReadoutName
from dist_attr.errors import QueryError
from dist_attr.readout import Query
from dist_attr.serving.exchange import Answer, Ask, parsed, reason
from dist_attr.serving.probe_schemas import (
    ComparisonRequest,
    ComparisonResponse,
    ProbeRequest,
    ProbeResponse,
    StatisticName,
)
from dist_attr.serving.schemas import (
    MOST_QUERIES,
    AnswerFacts,
    AttributedQuery,
    AttributionRequest,
    AttributionResponse,
    CompletionRequest,
    CompletionResponse,
    StreamedLine,
)

# Of a request's texts. A token has at least a byte, so these are no more tokens than a service takes by default.
MOST_BYTES = 32_768
Queries = Query | Iterable[Query]
Request = TypeVar("Request", AttributionRequest, CompletionRequest, ProbeRequest, ComparisonRequest)


class ReadoutOptions(TypedDict, total=False):
    """What is said of each answer.

    Attributes:
        readout: linear by default; see `Attributor.attribute`.
        rank: directions of the store's readout basis to reckon the scores from; exact by default.
        top: only so many sources, those with the largest absolute scores; all by default.
        tokens: also the score of every completion token.
    """

    readout: ReadoutName
    rank: int | None
    top: int | None
    tokens: bool


class CompletionOptions(ReadoutOptions, total=False):
    """How the model answers, and what is said of its answer.

    Attributes:
        max_tokens: length of the answer, 32 by default; the model may end it before.
        temperature: 0, the default, takes the likeliest token each time.
        top_p: draw from the likeliest tokens that have this probability.
        seed: of the draw.
    """

    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None


class ProbingOptions(TypedDict, total=False):
    """Which documents go before the prompt. What is not said is the service's to decide.

    Attributes:
        documents: so many of each source.
        choose: "bm25", those most like the query, or "random", the same for all queries.
        seed: of the random choice.
        sources: only these; all by default.
        tokens: also the score of every completion token.
    """

    documents: int
    choose: Literal["bm25", "random"]
    seed: int
    sources: Sequence[str] | None
    tokens: bool


class ComparisonOptions(ReadoutOptions, total=False):
    """What is compared: both methods' options.

    Attributes:
        documents: see `ProbingOptions`.
        choose: likewise.
        seed: likewise.
        sources: likewise.
        statistic: of a source's documents, to be compared with its influence: the mean by default, the median or best.
    """

    documents: int
    choose: Literal["bm25", "random"]
    seed: int
    sources: Sequence[str] | None
    statistic: StatisticName


def probes(queries: Queries, options: ProbingOptions, timeout: float) -> Ask[ProbeResponse]:
    """The request for probes. Raises QueryError when the options are not valid, or the queries too many for it."""
    return Ask("/v1/probes", ProbeResponse, valid(ProbeRequest, _values(queries, options, timeout)))


def comparison(queries: Queries, options: ComparisonOptions, timeout: float) -> Ask[ComparisonResponse]:
    """The request for a comparison. Raises as `probes` does."""
    return Ask("/v1/comparisons", ComparisonResponse, valid(ComparisonRequest, _values(queries, options, timeout)))


def _values(queries: Queries, options: ProbingOptions | ComparisonOptions, timeout: float) -> dict[str, Any]:
    given = [queries] if isinstance(queries, Query) else queries
    return {"queries": [query.model_dump() for query in given], "timeout": timeout, **options}


def attributions(
    queries: Queries, options: ReadoutOptions, timeout: float, answer: type[Answer]
) -> Iterator[Ask[Answer]]:
    """The requests for any number of queries, whole or streamed. Raises QueryError when the options are not valid."""
    for batch in _batches([queries] if isinstance(queries, Query) else queries):
        values = [query.model_dump() for query in batch]
        body = valid(AttributionRequest, {"queries": values, "timeout": timeout, **options})
        yield Ask("/v1/attributions", answer, body)


def completion(prompt: str, options: CompletionOptions, timeout: float) -> Ask[CompletionResponse]:
    """The request for an answer of the model. Raises QueryError when the options are not valid."""
    body = valid(CompletionRequest, {"prompt": prompt, "timeout": timeout, **options})
    return Ask("/v1/completions", CompletionResponse, body)


def _batches(queries: Iterable[Query]) -> Iterator[list[Query]]:
    batch: list[Query] = []
    size = 0
    for query in queries:
        texts = [text for each in (query, query.against) if each for text in (each.prompt, each.completion)]
        more = sum(len(text.encode()) for text in texts)
        if batch and (len(batch) == MOST_QUERIES or size + more > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(query)
        size += more
    if batch:
        yield batch


def valid(kind: type[Request], values: dict[str, Any]) -> Request:
    """A request from its values. Raises QueryError when they are not valid."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise QueryError(reason(error)) from error


def joined(asks: Sequence[Ask[AttributionResponse]], answers: Sequence[AttributionResponse]) -> AttributionResponse:
    """The answers to some requests as one.

    Raises:
        QueryError: there are none, one of them is not whole, or they are not from the same store.
    """
    if not answers:
        raise QueryError("there is no query to ask; give one at least")
    for ask, answer in zip(asks, answers, strict=True):
        _check_number(ask, len(answer.results))
        _check_facts(_facts(answers[0]), _facts(answer))
    return answers[0].model_copy(update={"results": [result for answer in answers for result in answer.results]})


class StreamReader:
    """Takes a streamed answer apart.

    Args:
        ask: the request.
        url: of what answers.
        before: the facts of the answer before this one, when a request was not enough for all queries.

    Attributes:
        facts: what is true of all results.
    """

    def __init__(self, ask: Ask[StreamedLine], url: httpx.URL, before: AnswerFacts | None) -> None:
        self.facts = before
        self._ask, self._url = ask, url
        self._rest, self._results, self._begun, self._done = b"", 0, False, False

    def feed(self, piece: bytes) -> Iterator[AttributedQuery]:
        """The results that a piece of the answer brings to their end.

        Raises:
            QueryError: the service says that it failed, or what comes is no such answer.
        """
        # httpx's own lines also end at characters that may stand inside a string of JSON, such as U+2028.
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line.strip():
                yield from self._take(parsed(StreamedLine, line, self._url))

    def _take(self, line: StreamedLine) -> Iterator[AttributedQuery]:
        if line.problem is not None:
            number = line.problem.request_id
            raise self.broken(line.problem.detail + (f" (request {number})" if number else ""))
        if line.facts is not None and not self._begun:
            _check_facts(self.facts or line.facts, line.facts)
            self.facts, self._begun = line.facts, True
        elif line.result is not None and self._begun and not self._done and line.index == self._results:
            self._results += 1
            yield line.result
        elif line.done is not None and self._begun and not self._done and line.done == self._results:
            _check_number(self._ask, line.done)
            self._done = True
        else:
            raise self.broken("its lines are not those of an answer")

    def end(self) -> None:
        """Raises QueryError unless the answer was whole."""
        if not self._done or self._rest:
            raise self.broken("the stream ended")

    def broken(self, why: object) -> QueryError:
        """The error of an answer that is not whole."""
        return QueryError(f"the answer of {self._url} broke off after {self._results} results: {why}")


def _facts(answer: AttributionResponse) -> AnswerFacts:
    return AnswerFacts(**{name: getattr(answer, name) for name in AnswerFacts.model_fields})


def _check_facts(first: AnswerFacts, later: AnswerFacts) -> None:
    if first != later:
        raise QueryError("the service changed its store between two parts of the answer; ask again")


def _check_number(ask: Ask[Any], results: int) -> None:
    assert isinstance(ask.body, AttributionRequest)
    if results != len(ask.body.queries):
        raise QueryError(f"the service answered {results} of {len(ask.body.queries)} queries; ask again")
