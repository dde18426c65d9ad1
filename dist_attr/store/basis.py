"""The readout basis of a finished store, in the group `basis/` inside it.

Design decisions:
- A direction is a combination of tangents, and is stored by the same codec.
- Rows are ordered by what they explain: the first r of every array are the basis of rank r, and nothing else is read.
- Each row has one sha256, of the direction and of what belongs to it. The manifest that holds them is written last and
  removed first: a basis that is half written, or half replaced, is none.
- It belongs to the very tangents it was found from, which the checksum of the sources table tells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import Field

from dist_attr.config import Settings
from dist_attr.errors import DamagedError, StoreError
from dist_attr.store.codecs import Encoded
from dist_attr.store.layout import (
    BASIS,
    DIRECTION_SCALES,
    DIRECTIONS,
    MIXING,
    RESIDUAL,
    TOKEN_RESIDUAL,
    Arrays,
    checksum,
    create_basis,
    open_arrays,
)
from dist_attr.store.manifest import ATTRIBUTE, CHECKSUM, Digest, checksum_of
from dist_attr.store.places import clear_damage, clear_errors
from dist_attr.store.reader import InfluenceStore, side_by_side

Numbers = NDArray[np.float32]
SMALL = (MIXING, RESIDUAL, TOKEN_RESIDUAL)


class BasisManifest(Settings):
    """The attributes of the group `basis`, under the key of the store's own manifest; beside it lies its checksum."""

    sources_checksum: Digest = Field(description="of the sources table of the store it belongs to")
    queries: int = Field(ge=1, description="that it was calibrated on")
    energy: float = Field(ge=0, le=1, description="share of the sum of squares of their scores that it keeps")
    rows: Annotated[tuple[Digest, ...], Field(min_length=1)] = Field(description="of each direction and its numbers")

    @property
    def rank(self) -> int:
        """R."""
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class BasisRows:
    """Some directions of a basis for S sources.

    Attributes:
        directions: encoded by the store's codec, r rows of P numbers.
        mixing: what a source's score takes of the score along each, (r, S).
        residual: what the directions up to each leave out of a query's score, as a share of the length of its scores
            along them, (r, S).
        token_residual: the same of a single token's score, (r, S).
    """

    directions: list[Encoded]
    mixing: Numbers
    residual: Numbers
    token_residual: Numbers


class StoredBasis:
    """The readout basis of a store, opened for reading.

    Attributes:
        manifest: how it came to be.
    """

    def __init__(self, store: InfluenceStore, manifest: BasisManifest, arrays: Arrays) -> None:
        self.manifest = manifest
        self._store, self._arrays = store, arrays

    def check_rank(self, rank: int) -> None:
        """Raises StoreError where there are not so many directions."""
        if not 1 <= rank <= self.manifest.rank:
            raise StoreError(
                f"the basis of {self._store.url} has {self.manifest.rank} directions, the rank asked for is {rank}; "
                f"choose one between 1 and {self.manifest.rank}, or calibrate again with a larger one"
            )

    def rows(self, rows: Sequence[int]) -> BasisRows:
        """Some directions, and what belongs to them.

        Raises:
            StoreError: one is damaged, or memory cannot hold them.
        """
        codec, size, sources = self._store.codec, self._store.manifest.space.size, len(self._store.sources)
        self._store.check_memory(len(rows) * (codec.bytes(size) + 4 * len(SMALL) * sources))
        directions: list[Encoded | None] = [None] * len(rows)
        small = {name: np.empty((len(rows), sources), np.float32) for name in SMALL}

        def fill(number: int, row: int) -> None:
            directions[number], own = self._row(row)
            for name, values in zip(SMALL, own, strict=True):
                small[name][number] = values

        side_by_side(fill, rows)
        return BasisRows([row for row in directions if row is not None], *small.values())

    def verify(self) -> None:
        """Check every row, one after another. Raises DamagedError, or StoreError where the store is not reached."""
        for row in range(self.manifest.rank):
            self._row(row)

    def _row(self, row: int) -> tuple[Encoded, list[Numbers]]:
        what, codec = f"the basis of {self._store.url} is damaged, direction {row}", self._store.codec
        with clear_damage(f"{what} cannot be read"), clear_errors(self._store.url):
            scales = np.asarray(self._arrays[DIRECTION_SCALES][row]) if codec.levels else np.empty(0, np.float32)
            direction = Encoded(np.asarray(self._arrays[DIRECTIONS][row]), scales)
            small = [np.asarray(self._arrays[name][row]) for name in SMALL]
        if _seal(direction, small) != self.manifest.rows[row]:
            raise DamagedError(f"{what} does not have its checksum")
        return direction, small


def open_basis(store: InfluenceStore) -> StoredBasis | None:
    """The basis of a store; none if it has none, or its making was cut short.

    Raises:
        DamagedError: it is not what was written, or belongs to another store.
        StoreError: the store is not reached.
    """
    with clear_damage(f"the basis of {store.url} is damaged"), clear_errors(store.url):
        try:
            zarr_store = store.place.zarr_store(read_only=True)
            group = zarr.open_group(zarr_store, path=BASIS, mode="r", zarr_format=3, use_consolidated=False)
        except FileNotFoundError:
            return None
        if ATTRIBUTE not in group.attrs:
            return None
        values = group.attrs[ATTRIBUTE]
        if checksum_of(values) != group.attrs.get(CHECKSUM):
            raise DamagedError(f"the basis of {store.url} is damaged: its manifest does not have its checksum")
        manifest = BasisManifest.model_validate(values)
        if manifest.sources_checksum != store.manifest.sources_checksum:
            raise DamagedError(f"the basis of {store.url} belongs to another store's tangents")
        sources, size = len(store.sources), store.manifest.space.size
        if manifest.rank > sources:
            raise ValueError(f"it has {manifest.rank} directions for {sources} sources")
        root = zarr.open_group(zarr_store, mode="r", zarr_format=3, use_consolidated=False)
        arrays = open_arrays(root, lambda made: create_basis(made, manifest.rank, sources, size, store.codec))
    return StoredBasis(store, manifest, arrays)


def write_basis(
    store: InfluenceStore,
    directions: Sequence[Encoded],
    small: tuple[Numbers, Numbers, Numbers],
    *,
    queries: int,
    energy: float,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Write the basis of a finished store; one that is there already is removed first.

    Args:
        store: what it belongs to.
        directions: R of them, encoded by the store's codec.
        small: mixing, residual and token residual, (R, S) each; see `BasisRows`.
        queries: how many it was calibrated on.
        energy: which share of the sum of squares of their scores it keeps.
        progress: called after each direction.

    Raises:
        StoreError: the place cannot be written to.
    """
    remove_basis(store)
    assert store.manifest.sources_checksum is not None
    seals = []
    with clear_errors(store.url):
        zarr_store = store.place.zarr_store(read_only=False)
        arrays = create_basis(zarr_store, len(small[0]), len(store.sources), store.manifest.space.size, store.codec)
        for number, (direction, *own) in enumerate(zip(directions, *small, strict=True)):
            arrays[DIRECTIONS][number] = direction.values
            if store.codec.levels:
                arrays[DIRECTION_SCALES][number] = direction.scales
            for name, values in zip(SMALL, own, strict=True):
                arrays[name][number] = values
            seals.append(_seal(direction, own))
            progress()
        manifest = BasisManifest(
            sources_checksum=store.manifest.sources_checksum, queries=queries, energy=energy, rows=tuple(seals)
        )
        values = manifest.model_dump(mode="json")
        zarr.open_group(zarr_store, path=BASIS, mode="a").attrs.update(
            {ATTRIBUTE: values, CHECKSUM: checksum_of(values)}
        )


def remove_basis(store: InfluenceStore) -> None:
    """Remove the basis of a store, if there is one, its manifest first. Raises StoreError where it is not allowed."""
    files, path = store.place.files()
    with clear_errors(store.url):
        files.invalidate_cache(path)
        for part in (f"{path}/{BASIS}/zarr.json", f"{path}/{BASIS}"):
            if files.exists(part):
                files.rm(part, recursive=True)


def check_writable(store: InfluenceStore) -> None:
    """Raises StoreError where no basis could be written, before one is calculated."""
    files, path = store.place.files()
    probe = f"{path}/{BASIS}.part"
    with clear_errors(store.url):
        files.pipe_file(probe, b"")
        files.rm(probe)


def _seal(direction: Encoded, small: Iterable[Numbers]) -> str:
    """sha256 of a direction's own sha256, and then of its rows of mixing, residual and token residual."""
    digest = hashlib.sha256(checksum(direction).data)
    for values in small:
        digest.update(np.ascontiguousarray(values, "<f4").data)
    return digest.hexdigest()
