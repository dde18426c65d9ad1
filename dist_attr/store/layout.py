"""Where things lie in the Zarr group, and how a row is sealed."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import fsspec
import numpy as np
import zarr
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import ZstdCodec
from zarr.storage import FsspecStore, LocalStore

TANGENTS, STEPS, CHECKSUMS = "tangents", "progress/step", "progress/checksum"
CHUNK = 2**20  # parameters: 4 MiB of float32, large enough for object storage, small enough to read ahead


def zarr_store(url: str, mode: Literal["r", "w"]) -> Store:
    """The Zarr store at an fsspec URL or a local path."""
    filesystem, path = fsspec.core.url_to_fs(url)
    if isinstance(filesystem, LocalFileSystem):
        # FsspecStore does not create the directories of a file:// URL.
        return LocalStore(path, read_only=mode == "r")
    return FsspecStore.from_url(url, read_only=mode == "r")


def exists(url: str) -> bool:
    """Whether anything lies at this URL."""
    filesystem, path = fsspec.core.url_to_fs(url)
    return bool(filesystem.exists(path))


def create_arrays(group: zarr.Group, sources: int, size: int) -> None:
    """The empty arrays for some number of sources and P parameters."""
    compressed: dict[str, Any] = {"compressors": ZstdCodec(level=1)}
    group.create_array(
        TANGENTS, shape=(sources, size), chunks=(1, min(size, CHUNK)), dtype="float32", fill_value=0.0, **compressed
    )
    group.create_array(STEPS, shape=(sources,), chunks=(1,), dtype="int64", fill_value=-1)
    group.create_array(CHECKSUMS, shape=(sources, 32), chunks=(1, 32), dtype="uint8", fill_value=0)


def checksum(row: NDArray[np.float32]) -> NDArray[np.uint8]:
    """sha256 of a tangent (P,) as 32 bytes."""
    return np.frombuffer(hashlib.sha256(np.ascontiguousarray(row, dtype="<f4").data).digest(), np.uint8)
