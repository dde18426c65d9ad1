"""A readout shard: a process with the model and every N-th row of what is read out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ray

from dist_attr.config import ReadoutName, ServiceConfig
from dist_attr.errors import StoreError
from dist_attr.readout import (
    Along,
    EncodedQuery,
    ReadoutEngine,
    Rows,
    Sampling,
    check_readout,
    compute_in,
    generate,
)
from dist_attr.serving.lasting import ASIDE
from dist_attr.store import BasisRows, open_basis, open_store


@dataclass(frozen=True, eq=False)
class ShardFacts:
    """What a shard says of itself.

    Attributes:
        context: tokens that the model reads at once.
        precision_error: see `compute_in`.
        basis: of each of its directions, what belongs to it; no directions. None if it holds none.
    """

    context: int
    precision_error: float | None
    basis: BasisRows | None


class ReadoutShard:
    """Sources `index`, `index + shards`, ... of a store, or such directions of its basis, or both.

    Args:
        config: of the service.
        index: of this shard.
        identity: of the store; what lies at its URL may have changed before a shard is started again.
        hold: the sources, the directions, or both.

    Raises:
        StoreError: it is another store, damaged, or its derivatives are wrong on this device.
    """

    def __init__(self, config: ServiceConfig, index: int, identity: str, hold: Sequence[str]) -> None:
        store = open_store(config.store)
        if store.manifest.identity != identity:
            raise StoreError(f"what lies at {config.store} is no longer the store {identity}; start the service again")
        engine = ReadoutEngine(store, model=config.model, per_pass=config.per_pass)
        self._index, self._shards, self._engine = index, config.shards, engine
        # One part of the rows may be empty, where there are fewer of them than shards.
        self._sources = self._directions = Rows(store.codec, [], store.manifest.space.size, engine.device)
        small = None
        if "sources" in hold:
            self._sources = Rows.of(store, range(index, len(store.sources), config.shards), engine.device)
        if "basis" in hold and (basis := open_basis(store)) is not None:
            small = basis.rows(range(index, basis.manifest.rank, config.shards))
            self._directions = Rows(store.codec, small.directions, store.manifest.space.size, engine.device)
            small = BasisRows([], small.mixing, small.residual, small.token_residual)
        checked = self._sources if len(self._sources) else self._directions
        if len(checked):
            check_readout(engine, checked)
        self._facts = ShardFacts(engine.context, compute_in(engine, config.precision, checked), small)

    def read(self, queries: Sequence[EncodedQuery], readout: ReadoutName, rank: int | None) -> list[Along]:
        """Read out queries along this shard's sources or, with a rank, its part of the first so many directions."""
        if rank is None:
            return self._engine.read(queries, self._sources, readout)
        own = len(range(self._index, rank, self._shards))
        return self._engine.read(queries, self._directions.first(own), readout)

    def generate(self, prompt: str, sampling: Sampling) -> tuple[EncodedQuery, bool]:
        """What the model answers, and whether it ended the answer itself."""
        return generate(self._engine, prompt, sampling)

    @ray.method(concurrency_group=ASIDE)
    def facts(self) -> ShardFacts:
        """What it holds; also while it computes."""
        return self._facts
