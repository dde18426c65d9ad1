"""The readout of a store, or of some of its sources, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_attr.config import ReadoutName
from dist_attr.corpus import load_tokenizer, token_strings, tokenizer_fingerprint
from dist_attr.errors import QueryError, StoreError
from dist_attr.influence import (
    ParameterSpace,
    ReadoutBasis,
    Scores,
    Sequences,
    central_difference_logprobs,
    counterfactual_logprobs,
    directional_logprobs,
)
from dist_attr.models import causal_forward, context_length, download_folder, load_model, model_fingerprint
from dist_attr.readout.query import EncodedQuery, Query, encode_query
from dist_attr.readout.rows import Rows
from dist_attr.store import InfluenceStore, open_basis

BATCH_TOKENS = 512  # of queries read out together: enough to keep a core busy, little enough for its cache
ADAPTERS = 0.2  # up to this share of the parameters, the models of several sources share most of their layers


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores of some queries, in nats per unit source weight. Positive: the source made the answer likelier.

    Attributes:
        sources: names, length S.
        scores: (queries, S), the sum over each query's completion tokens.
        token_scores: for each query (S, completion tokens).
        tokens: for each query the completion's tokens as strings.
        token_logprobs: for each query log p of the completion's tokens, (completion tokens,).
        errors: standard errors of the scores by what the readout basis leaves out; none of a readout without a basis.
        token_errors: the same of the token scores.
    """

    sources: list[str]
    scores: NDArray[np.float32]
    token_scores: list[NDArray[np.float32]]
    tokens: list[list[str]]
    token_logprobs: list[NDArray[np.float32]]
    errors: NDArray[np.float32] | None = None
    token_errors: list[NDArray[np.float32]] | None = None


class Attributor:
    """A store's tangents and its model, ready to score queries.

    Args:
        store: from `open_store`. Its model is the `model` folder beside it.
        model: another place, any fsspec URL, of the very same model and tokenizer.
        rows: the sources to score; all by default.
        rank: read out the first so many directions of the store's readout basis, and reckon all sources' scores and
            their errors from these; by default each source's own tangent, without such an error. With a rank the
            directions alone are held in memory.
        sources_per_pass: sources read out together; changes memory and speed, not the scores.

    Raises:
        StoreError: the model is not the store's, a tangent or direction is damaged, or there is no basis of that rank.
        ModelError: there is no model.
    """

    def __init__(
        self,
        store: InfluenceStore,
        *,
        model: str | None = None,
        rows: Sequence[int] | None = None,
        rank: int | None = None,
        sources_per_pass: int = 8,
    ) -> None:
        beside = store.place.beside("model")
        with download_folder(model or beside.url, None if model else beside.options) as folder:
            module = load_model(folder)
            self._tokenizer = load_tokenizer(folder, [])
        store.check_model(model_fingerprint(module), tokenizer_fingerprint(self._tokenizer))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        module.to(self.device).requires_grad_(False)
        self._space = ParameterSpace(store.manifest.space.names, store.manifest.space.shapes)
        parameters = dict(module.named_parameters())
        if any(name not in parameters or parameters[name].shape != shape for name, shape in self._space.items()):
            raise StoreError(f"{store.url}: the parameter space in its manifest is not that of its model")
        self._theta = self._space.read(module)
        self._module, self._context = module, context_length(module)
        rows = range(len(store.sources)) if rows is None else rows
        self.sources = [store.sources[row] for row in rows]
        self._basis: ReadoutBasis | None = None
        if rank is None:
            self.rows = Rows.of(store, rows, self.device)
        else:
            self._basis, self.rows = _basis_of(store, rows, rank, self.device)
        self._per_pass = sources_per_pass
        self._adapters = store.manifest.space.coverage <= ADAPTERS

    def attribute(self, queries: Sequence[Query], readout: ReadoutName = "linear") -> Attribution:
        """Score queries against every source.

        Args:
            queries: any number; they are batched by length.
            readout: `linear`, the derivative of the log-probability along each tangent; `central-difference`, the same
                to about a thousandth, by two forward passes; or `counterfactual`, what the log-probability would lose
                without the source.

        Raises:
            QueryError: a query is empty or does not fit the context, or a counterfactual is asked of a basis, whose
                scores it is not linear in; none is scored then.
        """
        if readout not in get_args(ReadoutName):
            raise QueryError(f"unknown readout {readout!r}; there are {', '.join(get_args(ReadoutName))}")
        if self._basis is not None and readout == "counterfactual":
            raise QueryError("a readout basis gives linear scores; ask for the counterfactual readout without a rank")
        encoded = [encode_query(query, self._tokenizer, self._context, i) for i, query in enumerate(queries)]
        along, logprobs = self._along(encoded, self.rows, readout)
        tokens = [token_strings(self._tokenizer, query.completion) for query in encoded]
        basis, none = self._basis, np.empty((0, len(self.sources)), np.float32)
        token_scores = [(of_query if basis is None else basis.of_sources(of_query)).numpy() for of_query in along]
        scores = np.stack([of_tokens.sum(1) for of_tokens in token_scores]) if encoded else none
        found = Attribution(list(self.sources), scores, token_scores, tokens, logprobs)
        if basis is None:
            return found
        errors = np.stack([basis.error(of_query.sum(1)).numpy() for of_query in along]) if encoded else none
        token_errors = [basis.token_error(of_query).numpy() for of_query in along]
        return replace(found, errors=errors, token_errors=token_errors)

    def fits(self, query: Query) -> bool:
        """Whether a query can be scored."""
        try:
            encode_query(query, self._tokenizer, self._context)
        except QueryError:
            return False
        return True

    def along(self, query: Query, rows: Rows) -> Tensor:
        """Scores of a query's tokens along other directions than the store's, (directions, completion tokens)."""
        return self._along([encode_query(query, self._tokenizer, self._context)], rows, "linear")[0][0]

    def _along(
        self, encoded: Sequence[EncodedQuery], rows: Rows, readout: ReadoutName
    ) -> tuple[list[Tensor], list[NDArray[np.float32]]]:
        """Scores (directions, completion tokens) of each query, and the log-probabilities of its tokens."""
        along: list[Tensor] = [torch.empty(0, 0)] * len(encoded)
        logprobs: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(encoded)
        for batch in _batches(encoded):
            first = min(encoded[i].start for i in batch) - 1
            result = self._read_out(_padded([encoded[i].tokens for i in batch]).to(self.device), first, rows, readout)
            for position, i in enumerate(batch):
                scored = slice(encoded[i].start - 1 - first, len(encoded[i].tokens) - 1 - first)
                along[i] = result.scores[:, position, scored].cpu()
                logprobs[i] = result.logprobs[position, scored].cpu().numpy()
        return along, logprobs

    def _read_out(self, tokens: Tensor, first: int, rows: Rows, readout: ReadoutName) -> Scores:
        at = Sequences(causal_forward(self._module, first), self._space, self._theta, tokens, first)
        parts = rows.parts(self._per_pass)
        if readout == "counterfactual":
            return counterfactual_logprobs(at, parts, stacked=self._adapters)
        return (directional_logprobs if readout == "linear" else central_difference_logprobs)(at, parts)


def _basis_of(store: InfluenceStore, rows: Sequence[int], rank: int, device: torch.device) -> tuple[ReadoutBasis, Rows]:
    """The first directions of a store's basis, and what of it belongs to some sources.

    Raises:
        StoreError: there is none, or it is smaller, damaged or of another store.
    """
    basis = open_basis(store)
    if basis is None:
        raise StoreError(f"{store.url} has no readout basis; make one with dist-attr calibrate, or ask without a rank")
    stored = basis.rows(rank)
    mixing, residual, token_residual = (
        torch.from_numpy(values[:, list(rows)]) for values in (stored.mixing, stored.residual, stored.token_residual)
    )
    directions = Rows(store.codec, stored.directions, store.manifest.space.size, device)
    return ReadoutBasis(mixing, residual, token_residual, basis.manifest.energy), directions


def _batches(queries: Sequence[EncodedQuery]) -> Iterator[list[int]]:
    """Indices of queries of similar length, as many as fit into a batch."""
    batch: list[int] = []
    for i in sorted(range(len(queries)), key=lambda i: len(queries[i].tokens)):
        if batch and (len(batch) + 1) * len(queries[i].tokens) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _padded(sequences: Sequence[Sequence[int]]) -> Tensor:
    length = max(map(len, sequences))
    return torch.tensor([[*sequence, *[0] * (length - len(sequence))] for sequence in sequences])
