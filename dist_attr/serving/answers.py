"""From the shards' attributions to what is answered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dist_attr.readout import Attribution
from dist_attr.serving.schemas import (
    AttributedQuery,
    AttributionRequest,
    AttributionResponse,
    SourceScore,
    StoreIdentity,
)
from dist_attr.store import InfluenceStore


def response(store: InfluenceStore, parts: Sequence[Attribution], request: AttributionRequest) -> AttributionResponse:
    """The answer to a request, from attributions that together cover the sources of the store."""
    results = [attributed_query(parts, query, request) for query in range(len(request.queries))]
    return AttributionResponse(store=store_identity(store), readout=request.readout, rank=request.rank, results=results)


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
        coverage=manifest.space.coverage,
    )


def attributed_query(parts: Sequence[Attribution], query: int, request: AttributionRequest) -> AttributedQuery:
    """The shards' answers to one query as one, ranked."""
    names = [name for part in parts for name in part.sources]
    scores = np.concatenate([part.scores[query] for part in parts])
    token_scores = np.concatenate([part.token_scores[query] for part in parts])
    errors = [error for part in parts if part.errors is not None for error in part.errors[query].tolist()]
    kept = np.argsort(-np.abs(scores), kind="stable")[: request.top]
    ranked = kept[np.argsort(-scores[kept], kind="stable")]
    return AttributedQuery(
        tokens=parts[0].tokens[query],
        token_logprobs=parts[0].token_logprobs[query].tolist(),
        logprob=float(parts[0].token_logprobs[query].sum()),
        sources=[
            SourceScore(
                source=names[i],
                score=float(scores[i]),
                error=errors[i] if errors else None,
                token_scores=token_scores[i].tolist() if request.tokens else None,
            )
            for i in ranked
        ],
    )
