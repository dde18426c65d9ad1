"""Finished numbers on disk, so that whatever interrupts an evaluation loses none of them."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_attr.store import Place


def digest(*parts: Any) -> str:
    """sha256 of JSON values, arrays and bytes: a name for what they decide."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype} {part.shape}\n".encode())
            found.update(np.ascontiguousarray(part).data)
        else:
            found.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return found.hexdigest()


class Kept:
    """A folder with one small array in each file, named by the digest of all that decides it.

    Args:
        place: the folder, any fsspec URL; made when the first array is written.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def get(self, name: str) -> NDArray[Any] | None:
        """The array of that name, or None when there is none that can be read."""
        if (data := self._place.read(f"{name}.npy")) is None:
            return None
        try:
            values: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError):
            return None  # a file that was cut off is computed again
        return values

    def put(self, name: str, values: NDArray[Any]) -> None:
        """Write an array; it is there whole, or not at all. Raises StoreError when the place cannot be written to."""
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        self._place.write(f"{name}.npy", buffer.getvalue())
