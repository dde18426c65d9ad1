"""Where things lie in the Zarr group, and how a row is sealed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from dist_attr.store.codecs import Codec, Encoded

TANGENTS, SCALES, STEPS, CHECKSUMS = "tangents", "scales", "progress/step", "progress/checksum"
SOURCES = "sources.parquet"
BASIS = "basis"  # a group of its own, with its own manifest in its attributes
DIRECTIONS, DIRECTION_SCALES = f"{BASIS}/directions", f"{BASIS}/scales"
MIXING, RESIDUAL, TOKEN_RESIDUAL = f"{BASIS}/mixing", f"{BASIS}/residual", f"{BASIS}/token_residual"
CHUNK = 2**20  # bytes that are compressed together, and the least that is read
SHARD = 16 * CHUNK  # bytes in one object, before compression


Arrays = dict[str, zarr.Array[Any]]


class ChunkZstd(ZstdCodec):
    """Zstandard that never makes more of a chunk than the chunk holds, whatever size its bytes claim to have."""

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        whole = np.zeros(math.prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize, np.uint8)
        self._zstd_codec.decode(chunk_bytes.as_numpy_array(), whole)
        return chunk_spec.prototype.buffer.from_array_like(whole)


def create_arrays(store: Store, sources: int, size: int, codec: Codec) -> Arrays:
    """The empty arrays for some number of sources and P parameters, by name."""
    arrays = {TANGENTS: _create_rows(store, TANGENTS, sources, codec.length(size), codec.dtype)}
    if codec.levels:
        arrays[SCALES] = _create_rows(store, SCALES, sources, codec.blocks(size), np.dtype("<f4"))
    arrays[STEPS] = _create(store, STEPS, (sources,), chunks=(1,), dtype="int64", fill_value=-1)
    arrays[CHECKSUMS] = _create(store, CHECKSUMS, (sources, 32), chunks=(1, 32), dtype="uint8", fill_value=0)
    return arrays


def create_basis(store: Store, rank: int, sources: int, size: int, codec: Codec) -> Arrays:
    """The empty arrays of a readout basis of R directions for S sources and P parameters, by name.

    A row of each belongs to one direction: the direction as tangents are stored, its row of the mixing, and what the
    directions up to it leave out.
    """
    arrays = {DIRECTIONS: _create_rows(store, DIRECTIONS, rank, codec.length(size), codec.dtype)}
    if codec.levels:
        arrays[DIRECTION_SCALES] = _create_rows(store, DIRECTION_SCALES, rank, codec.blocks(size), np.dtype("<f4"))
    for name in (MIXING, RESIDUAL, TOKEN_RESIDUAL):
        arrays[name] = _create_rows(store, name, rank, sources, np.dtype("<f4"))
    return arrays


def _create_rows(store: Store, name: str, sources: int, length: int, dtype: np.dtype[np.generic]) -> zarr.Array[Any]:
    """An array whose shards each belong to one row."""
    chunk = min(length, CHUNK // dtype.itemsize)
    shard = min(SHARD // CHUNK, -(-length // chunk)) * chunk
    return _create(store, name, (sources, length), shards=(1, shard), chunks=(1, chunk), dtype=dtype, fill_value=0)


def _create(store: Store, name: str, shape: tuple[int, ...], **settings: Any) -> zarr.Array[Any]:
    """An array of which every chunk has a checksum (crc32c) of its own."""
    compressors = (ChunkZstd(level=1), Crc32cCodec())
    return zarr.create_array(store, name=name, shape=shape, compressors=compressors, overwrite=True, **settings)


def open_arrays(group: zarr.Group, create: Callable[[Store], Arrays], *, but: Collection[str] = ()) -> Arrays:
    """Arrays of a store, by name, as `create` makes them, but for some that no longer count.

    What decodes them comes from here and not from the store. Raises ValueError when one is not as `create` makes it.
    Nothing of them is read.
    """
    made = create(memory := MemoryStore())
    expected = zarr.open_group(memory, mode="r")
    wanted = [name for name in made if name not in but]
    if wrong := [name for name in wanted if _form(group.get(name)) != _form(expected[name])]:
        raise ValueError(f"{', '.join(wrong)} missing or not as its manifest says")
    return {name: zarr.Array(zarr.AsyncArray(made[name].metadata, group.store_path / name)) for name in wanted}


def _form(array: Any) -> dict[str, Any] | None:
    return array.metadata.to_dict() if isinstance(array, zarr.Array) else None


def rows_of(codec: Codec) -> tuple[str, ...]:
    """The arrays that hold the rows."""
    return (TANGENTS, SCALES) if codec.levels else (TANGENTS,)


def checksum(row: Encoded) -> NDArray[np.uint8]:
    """sha256 of an encoded row, its values and then its scales: 32 bytes."""
    digest = hashlib.sha256(np.ascontiguousarray(row.values).data)
    digest.update(np.ascontiguousarray(row.scales, "<f4").data)
    return np.frombuffer(digest.digest(), np.uint8)
