"""Where things lie in the Zarr group, and how a row is sealed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from dist_attr.store.codecs import Codec, Encoded

TANGENTS, SCALES, STEPS, CHECKSUMS = "tangents", "scales", "progress/step", "progress/checksum"
SOURCES = "sources.parquet"
CHUNK = 2**20  # bytes that are compressed together, and the least that is read
SHARD = 16 * CHUNK  # bytes in one object, before compression


def create_arrays(store: Store, sources: int, size: int, codec: Codec) -> None:
    """The empty arrays for some number of sources and P parameters."""
    _create_rows(store, TANGENTS, sources, codec.length(size), codec.dtype)
    if codec.levels:
        _create_rows(store, SCALES, sources, codec.blocks(size), np.dtype("<f4"))
    zarr.create_array(store, name=STEPS, shape=(sources,), chunks=(1,), dtype="int64", fill_value=-1, overwrite=True)
    zarr.create_array(
        store, name=CHECKSUMS, shape=(sources, 32), chunks=(1, 32), dtype="uint8", fill_value=0, overwrite=True
    )


def _create_rows(store: Store, name: str, sources: int, length: int, dtype: np.dtype[np.generic]) -> None:
    """An array whose shards each belong to one row. Every chunk in a shard has a checksum (crc32c) of its own."""
    chunk = min(length, CHUNK // dtype.itemsize)
    shard = min(SHARD // CHUNK, -(-length // chunk)) * chunk
    zarr.create_array(
        store,
        name=name,
        shape=(sources, length),
        shards=(1, shard),
        chunks=(1, chunk),
        dtype=dtype,
        fill_value=0,
        compressors=(ZstdCodec(level=1, checksum=False), Crc32cCodec()),
        overwrite=True,
    )


def differences(group: zarr.Group, sources: int, size: int, codec: Codec) -> list[str]:
    """Names of arrays that are missing or not as `create_arrays` makes them. Nothing of them is read."""
    create_arrays(memory := MemoryStore(), sources, size, codec)
    expected = zarr.open_group(memory, mode="r")
    return [name for name in rows_of(codec) if _form(group.get(name)) != _form(expected[name])]


def rows_of(codec: Codec) -> tuple[str, ...]:
    """The arrays that hold the rows."""
    return (TANGENTS, SCALES) if codec.levels else (TANGENTS,)


def _form(array: Any) -> dict[str, Any] | None:
    if not isinstance(array, zarr.Array):
        return None
    whole = array.metadata.to_dict()
    return {name: whole.get(name) for name in ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs")}


def checksum(row: Encoded) -> NDArray[np.uint8]:
    """sha256 of an encoded row, its values and then its scales: 32 bytes."""
    digest = hashlib.sha256(np.ascontiguousarray(row.values).data)
    digest.update(np.ascontiguousarray(row.scales, "<f4").data)
    return np.frombuffer(digest.digest(), np.uint8)
