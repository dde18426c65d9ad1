"""From attributions to what is answered."""

from __future__ import annotations

import numpy as np

from dist_attr.config import PrecisionName
from dist_attr.readout import Attribution, Attributor
from dist_attr.serving.schemas import (
    AnswerFacts,
    AttributedQuery,
    AttributionRequest,
    AttributionResponse,
    BasisFidelity,
    Fidelity,
    Options,
    SourceScore,
    StoreIdentity,
)
from dist_attr.store import InfluenceStore, open_basis


def read_locally(store: InfluenceStore, request: AttributionRequest) -> AttributionResponse:
    """The answer to a request without a service: what the service would answer.

    Raises:
        DistAttrError: as the attributor raises it.
    """
    attributor = Attributor(store, rank=request.rank)
    found = attributor.attribute(request.queries, request.readout)
    stored = None if request.rank is None else open_basis(store)
    basis = None if stored is None else BasisFidelity(rank=stored.manifest.rank, energy=stored.manifest.energy)
    facts = AnswerFacts(
        store=store_identity(store),
        readout=request.readout,
        rank=request.rank,
        fidelity=fidelity(store, "fp32", attributor.precision_error, basis),
    )
    return whole(facts, attributed_queries(found, request))


def whole(facts: AnswerFacts, results: list[AttributedQuery]) -> AttributionResponse:
    """An answer from what is true of all of it, and its results."""
    return AttributionResponse(**{name: getattr(facts, name) for name in AnswerFacts.model_fields}, results=results)


def store_identity(store: InfluenceStore) -> StoreIdentity:
    """What an answer says of its store."""
    manifest = store.manifest
    assert manifest.model is not None
    return StoreIdentity(
        identity=manifest.identity,
        created=manifest.created,
        method=manifest.run.simulation.method,
        model=manifest.model.weights,
        tokenizer=manifest.model.tokenizer,
        corpus=manifest.corpus,
    )


def fidelity(
    store: InfluenceStore, precision: PrecisionName, precision_error: float | None, basis: BasisFidelity | None = None
) -> Fidelity:
    """How far scores of a store can be trusted."""
    return Fidelity(
        measured=list(store.manifest.fidelity),
        coverage=store.manifest.space.coverage,
        codec=store.manifest.encoding.codec,
        precision=precision,
        precision_error=precision_error,
        basis=basis,
    )


def attributed_queries(found: Attribution, options: Options) -> list[AttributedQuery]:
    """The answers to some queries, each with its sources ranked."""
    return [_attributed(found, query, options) for query in range(len(found.tokens))]


def _attributed(found: Attribution, query: int, options: Options) -> AttributedQuery:
    scores, errors = found.scores[query], None if found.errors is None else found.errors[query]
    token_errors = None if found.token_errors is None else found.token_errors[query]
    kept = np.argsort(-np.abs(scores), kind="stable")[: options.top]
    ranked = kept[np.argsort(-scores[kept], kind="stable")]
    return AttributedQuery(
        tokens=found.tokens[query],
        token_logprobs=found.token_logprobs[query].tolist(),
        logprob=float(found.token_logprobs[query].sum()),
        baseline_logprob=found.baseline_logprobs[query],
        sources=[
            SourceScore(
                source=found.sources[i],
                score=float(scores[i]),
                error=None if errors is None else float(errors[i]),
                token_scores=found.token_scores[query][i].tolist() if options.tokens else None,
                token_errors=token_errors[i].tolist() if options.tokens and token_errors is not None else None,
            )
            for i in ranked
        ],
    )
