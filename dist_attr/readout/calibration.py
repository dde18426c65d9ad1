"""Finding the readout basis of a store from calibration queries."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch

from dist_attr.errors import QueryError
from dist_attr.influence import ReadoutBasis
from dist_attr.readout.attributor import Attributor
from dist_attr.readout.query import Query
from dist_attr.readout.rows import Rows
from dist_attr.store import InfluenceStore, check_writable, write_basis

FEWEST = 8  # queries: half of them have to judge the directions of the other half
LONGEST = 512  # characters of a sampled query
DRAWS = 20  # of a text for each query that is wanted, before giving up


def calibrate(
    store: InfluenceStore,
    queries: Sequence[Query] | Callable[[Attributor], Sequence[Query]],
    *,
    rank: int | None = None,
    energy: float | None = None,
    model: str | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> ReadoutBasis:
    """Find the directions in which the scores of some queries vary most, and write them into the store.

    Each query is read out against every source, exactly. A basis that the store has is replaced when the new one is
    known.

    Args:
        store: it must be writable.
        queries: like those that will be asked; or what makes them for an attributor.
        rank: how many directions.
        energy: instead of a rank, the share of the sum of squares of the scores that is to be kept.
        model: another place of the store's model.
        progress: called with what is done, how much of it and of how much.

    Raises:
        QueryError: a query cannot be scored, or there are too few.
        StoreError: the store is damaged, or cannot be written to.
    """
    check_writable(store)
    attributor = Attributor(store, model=model)
    queries = queries if isinstance(queries, Sequence) else queries(attributor)
    if any(query.baseline is not None for query in queries):
        raise QueryError("a calibration query has no baseline; give the baseline as a query of its own")
    most = min(len(queries), len(store.sources))
    if len(queries) < FEWEST:
        raise QueryError(f"a basis needs at least {FEWEST} calibration queries, there are {len(queries)}")
    if rank is not None and rank > most:
        raise QueryError(
            f"the rank is {rank}; with {len(queries)} calibration queries and {len(store.sources)} sources "
            f"it is at most {most}"
        )
    token_scores = []
    for number, query in enumerate(queries, start=1):
        token_scores.append(torch.from_numpy(attributor.attribute([query]).token_scores[0]).T)
        progress("queries", number, len(queries))
    basis = ReadoutBasis.fit(token_scores, rank=rank, energy=energy)
    encoded = []
    for direction in attributor.rows.combined(basis.mixing):
        encoded.append(store.codec.encode(direction))
        progress("directions", len(encoded), basis.rank)
    stored, along = Rows(store.codec, encoded, attributor.rows.size, attributor.engine.device), []
    for query in queries:
        along.append(attributor.along(query, stored))
        progress("error of storing them", len(along), len(queries))
    basis = basis.as_stored(token_scores, along)
    small = [values.float().numpy() for values in (basis.mixing, basis.residual, basis.token_residual)]
    write_basis(store, encoded, (small[0], small[1], small[2]), queries=len(queries), energy=basis.energy)
    return basis


def sample_queries(texts: Sequence[str], count: int, fits: Callable[[Query], bool], seed: int = 0) -> list[Query]:
    """Pieces of texts drawn at random, cut in two at a space: what comes first is the prompt.

    Args:
        texts: of the documents.
        count: how many queries.
        fits: whether a query fits the model's context; a piece that does not is halved.
        seed: of the draw.

    Raises:
        QueryError: hardly any piece fits.
    """
    draw, queries = random.Random(seed), list[Query]()
    for _ in range(DRAWS * count):
        if len(queries) == count:
            break
        text = draw.choice(texts).strip()
        start, length = draw.randrange(max(1, len(text) - LONGEST)), LONGEST
        while length > 1:
            piece = text[start : start + length].strip()
            cut = piece.find(" ", len(piece) // 2)
            cut = len(piece) // 2 if cut < 0 else cut
            query = Query(prompt=piece[:cut], completion=piece[cut:])
            if fits(query):
                queries.append(query)
                break
            length //= 2
    if len(queries) < count:
        raise QueryError(f"of {DRAWS * count} pieces of the documents only {len(queries)} fit the model's context")
    return queries
