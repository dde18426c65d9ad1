"""From probes to what is answered, and to its comparison with influence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dist_attr.corpus import Tokenizer, decode, encode, token_strings
from dist_attr.probing import Probe, agreement, by_source, golden_score
from dist_attr.readout import Attribution, Query
from dist_attr.serving.answers import attributed_queries
from dist_attr.serving.probe_schemas import (
    ComparedQuery,
    ComparisonRequest,
    ComparisonResponse,
    GoldenScore,
    ProbedDocument,
    ProbedQuery,
    ProbedSource,
    ProbingFacts,
)
from dist_attr.serving.schemas import AnswerFacts

EXCERPT = 400  # characters


def probed_query(
    query: Query, probe: Probe, sources: Sequence[str], tokenizer: Tokenizer, *, tokens: bool
) -> ProbedQuery:
    """The answer to one query, with its sources and documents ranked."""
    of_sources = [
        ProbedSource(source=s.source, mean=s.mean, median=s.median, best=s.best, documents=s.documents)
        for s in by_source(probe, sources)
    ]
    documents = [
        ProbedDocument(
            source=passage.source,
            document=passage.document,
            window=passage.window,
            windows=passage.windows,
            length=len(passage.tokens),
            score=float(score),
            token_scores=token_scores.tolist() if tokens else None,
            excerpt=_excerpt(tokenizer, passage.tokens),
        )
        for passage, score, token_scores in zip(probe.passages, probe.scores, probe.token_scores, strict=True)
    ]
    return ProbedQuery(
        tokens=token_strings(tokenizer, encode(tokenizer, query.completion)),
        token_logprobs=probe.logprobs.tolist(),
        logprob=float(probe.logprobs.sum()),
        sources=sorted(of_sources, key=lambda s: -s.mean),
        documents=sorted(documents, key=lambda d: -d.score),
    )


def golden_scores(results: Sequence[ProbedQuery]) -> list[GoldenScore]:
    """Of every document that some queries were probed with."""
    scores: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for result in results:
        for each in result.documents:
            scores[each.source, each.document, each.window].append(each.score)
    golden = [
        GoldenScore(
            source=source,
            document=document,
            window=window,
            queries=len(of_queries),
            share=float(golden_score(np.array(of_queries)[:, None])[0]),
        )
        for (source, document, window), of_queries in scores.items()
    ]
    return sorted(golden, key=lambda each: -each.share)


def compared(
    asked: ComparisonRequest,
    sources: Sequence[str],
    attributed: Sequence[AnswerFacts | Attribution],
    probing: ProbingFacts,
    probed: Sequence[ProbedQuery],
    bm25: NDArray[np.float64],
) -> ComparisonResponse:
    """Influence and in-context probing side by side.

    Args:
        asked: for what.
        sources: that are compared.
        attributed: the facts, and the attributions of all queries, some at a time.
        probing: how documents went into the prompt.
        probed: the probes of all queries.
        bm25: how like each query each source's most similar window is, (queries, sources).
    """
    [facts] = [part for part in attributed if isinstance(part, AnswerFacts)]
    parts = [_of_sources(part, sources) for part in attributed if isinstance(part, Attribution)]
    figures = [{each.source: getattr(each, asked.statistic) for each in result.sources} for result in probed]
    return ComparisonResponse(
        **{name: getattr(facts, name) for name in AnswerFacts.model_fields},
        probing=probing,
        statistic=asked.statistic,
        results=[
            ComparedQuery(attribution=attribution, probe=probe)
            for attribution, probe in zip(
                [result for part in parts for result in attributed_queries(part, asked)], probed, strict=True
            )
        ],
        agreement=agreement(
            np.concatenate([part.scores for part in parts]),
            np.array([[of_query[source] for source in sources] for of_query in figures]),
            covariates={"bm25": bm25, "tokens": np.stack([_mean_lengths(result, sources) for result in probed])},
        ),
    )


def _mean_lengths(result: ProbedQuery, sources: Sequence[str]) -> NDArray[np.float64]:
    """Tokens of the documents that each source was probed with, their mean, (sources,)."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for document in result.documents:
        lengths[document.source].append(document.length)
    return np.array([np.mean(lengths[source]) for source in sources])


def _of_sources(found: Attribution, sources: Sequence[str]) -> Attribution:
    """The part of an attribution that is about some sources, in the order given."""
    rows = [found.sources.index(source) for source in sources]
    return replace(
        found,
        sources=list(sources),
        scores=found.scores[:, rows],
        token_scores=[scores[rows] for scores in found.token_scores],
        errors=None if found.errors is None else found.errors[:, rows],
        token_errors=None if found.token_errors is None else [errors[rows] for errors in found.token_errors],
    )


def _excerpt(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """The first characters of a passage; what is left of one that was cut in two is not among them."""
    # A token is a byte at least, and a character has four at most.
    text = decode(tokenizer, tokens[: 4 * EXCERPT]).strip("\ufffd")
    return text if len(text) <= EXCERPT else text[:EXCERPT].rstrip() + " …"
