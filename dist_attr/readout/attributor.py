"""The readout of a store, or of some of its sources, in this process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dist_attr.config import PrecisionName, ReadoutName
from dist_attr.errors import QueryError, StoreError
from dist_attr.influence import ReadoutBasis
from dist_attr.readout.attribution import Attribution
from dist_attr.readout.checks import compute_in
from dist_attr.readout.engine import ReadoutEngine
from dist_attr.readout.query import Query
from dist_attr.readout.rows import Rows
from dist_attr.store import BasisRows, InfluenceStore, StoredBasis, open_basis


class Attributor:
    """A store's tangents and its model, ready to score queries.

    Args:
        store: from `open_store`. Its model is the `model` folder beside it.
        model: another place, any fsspec URL, of the very same model and tokenizer.
        rows: the sources to score; all by default.
        rank: read out the first so many directions of the store's readout basis, and reckon all sources' scores and
            their errors from these; by default each source's own tangent, without such an error. With a rank the
            directions alone are held in memory.
        precision: `bf16` computes in bfloat16, and the linear readout only.
        sources_per_pass: sources read out together; changes memory and speed, not the scores.

    Attributes:
        sources: names, in the order of the scores.
        precision_error: what the precision costs, see `compute_in`; none of fp32.

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
        precision: PrecisionName = "fp32",
        sources_per_pass: int = 8,
    ) -> None:
        self.engine = ReadoutEngine(store, model=model, per_pass=sources_per_pass)
        rows = range(len(store.sources)) if rows is None else rows
        self.sources = [store.sources[row] for row in rows]
        self._basis: ReadoutBasis | None = None
        if rank is None:
            self.rows = Rows.of(store, rows, self.engine.device)
        else:
            stored = ranked_basis(store, rank)
            directions = stored.rows(range(rank))
            self._basis = basis_of(directions, stored.manifest.energy, rows)
            self.rows = Rows(store.codec, directions.directions, store.manifest.space.size, self.engine.device)
        self.precision_error = compute_in(self.engine, precision, self.rows)

    def attribute(self, queries: Sequence[Query], readout: ReadoutName = "linear") -> Attribution:
        """Score queries against every source.

        Args:
            queries: any number; they are batched by length.
            readout: `linear`, the derivative of the log-probability along each tangent; `central-difference`, the same
                to about a thousandth, by two forward passes; or `counterfactual`, what the log-probability would lose
                without the source.

        Raises:
            QueryError: a query is empty or does not fit the context or the memory, or a counterfactual is asked of a
                basis, whose scores it is not linear in; none is scored then.
        """
        if self._basis is not None and readout == "counterfactual":
            raise QueryError("a readout basis gives linear scores; ask for the counterfactual readout without a rank")
        encoded, against = self.engine.encode_all(queries)
        read = self.engine.read([*encoded, *(other for other in against if other)], self.rows, readout)
        own, others = read[: len(encoded)], iter(read[len(encoded) :])
        tokens = [self.engine.strings(query) for query in encoded]
        baselines = [None if other is None else next(others) for other in against]
        return Attribution.of(self.sources, own, tokens, self._basis, baselines)

    def fits(self, query: Query) -> bool:
        """Whether a query can be scored."""
        try:
            self.engine.encode_all([query])
        except QueryError:
            return False
        return True

    def along(self, query: Query, rows: Rows) -> Tensor:
        """Scores of a query's tokens along other directions than the store's, (directions, completion tokens)."""
        return torch.from_numpy(self.engine.read(self.engine.encode_all([query])[0], rows)[0].scores)


def ranked_basis(store: InfluenceStore, rank: int) -> StoredBasis:
    """A store's basis. Raises StoreError when there is none, or it has fewer directions than `rank`."""
    basis = open_basis(store)
    if basis is None:
        raise StoreError(f"{store.url} has no readout basis; make one with dist-attr calibrate, or ask without a rank")
    basis.check_rank(rank)
    return basis


def basis_of(rows: BasisRows, energy: float, sources: Sequence[int] | slice = slice(None)) -> ReadoutBasis:
    """What directions of a basis say of all sources, or of some."""
    own = sources if isinstance(sources, slice) else list(sources)
    mixing, residual, token_residual = (
        torch.from_numpy(values[:, own]) for values in (rows.mixing, rows.residual, rows.token_residual)
    )
    return ReadoutBasis(mixing, residual, token_residual, energy)
