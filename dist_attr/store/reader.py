"""Reading a store: what is damaged or unfinished is never handed out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import ValidationError

from dist_attr.errors import StoreError
from dist_attr.store.layout import CHECKSUMS, STEPS, TANGENTS, checksum, exists, zarr_store
from dist_attr.store.manifest import ATTRIBUTE, FORMAT_VERSION, Manifest


class InfluenceStore:
    """A finished influence store, opened for reading.

    Attributes:
        url: where it is.
        manifest: what it holds and belongs to.
    """

    def __init__(self, url: str, manifest: Manifest, group: zarr.Group) -> None:
        self.url = url
        self.manifest = manifest
        self._group = group

    def __repr__(self) -> str:
        return f"InfluenceStore({self.url!r}, {len(self.sources)} sources × {self.manifest.space.size:,} parameters)"

    @property
    def sources(self) -> list[str]:
        """Names of the sources that have a tangent."""
        return [record.name for record in self.manifest.sources if record.failed is None]

    def tangents(self, rows: Sequence[int] | None = None) -> NDArray[np.float32]:
        """δ of some of `sources`, or of all: (rows, P). Raises StoreError when a row does not have its checksum."""
        stored = [row for row, record in enumerate(self.manifest.sources) if record.failed is None]
        rows = stored if rows is None else [stored[row] for row in rows]
        tangents, checksums = self._array(TANGENTS), np.asarray(self._array(CHECKSUMS)[:])
        values = np.empty((len(rows), self.manifest.space.size), np.float32)
        for value, row in zip(values, rows, strict=True):
            try:
                value[:] = tangents[row]
            except Exception as error:  # a damaged chunk fails in whichever codec meets it first
                raise self._damaged(row, f"it cannot be read: {error}") from error
            if not np.array_equal(checksum(value), checksums[row]):
                raise self._damaged(row, "it does not have its checksum")
        return values

    @property
    def stored_bytes(self) -> int:
        """Size of the compressed tangents."""
        return int(self._array(TANGENTS).nbytes_stored())

    def check_model(self, weights: str, tokenizer: str) -> None:
        """Raises StoreError unless these fingerprints are those of the model and tokenizer the store belongs to."""
        assert self.manifest.model is not None
        for what, ours, theirs in (
            ("model", self.manifest.model.weights, weights),
            ("tokenizer", self.manifest.model.tokenizer, tokenizer),
        ):
            if ours != theirs:
                raise StoreError(
                    f"{self.url} belongs to another {what}: its fingerprint is {ours[:12]}…, not {theirs[:12]}…; "
                    "use the model/ that the run saved beside the store"
                )

    def _damaged(self, row: int, why: str) -> StoreError:
        return StoreError(f"{self.url}: the tangent of source {self.manifest.sources[row].name!r} is damaged, {why}")

    def _array(self, name: str) -> zarr.Array[Any]:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array


def open_store(url: str) -> InfluenceStore:
    """Open a finished store at an fsspec URL or a local path.

    Raises:
        StoreError: there is none, it is unfinished (naming the missing sources), of another format, or inconsistent.
    """
    try:
        group = zarr.open_group(zarr_store(url, "r"), mode="r", zarr_format=3)
    except FileNotFoundError as error:
        hint = f"; did you mean {url.rstrip('/')}/influence.zarr?" if exists(f"{url}/influence.zarr") else ""
        raise StoreError(f"there is no influence store at {url}{hint}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot open the influence store at {url}: {error}") from error
    manifest = _manifest(url, group)
    store = InfluenceStore(url, manifest, group)
    _check(store)
    return store


def _manifest(url: str, group: zarr.Group) -> Manifest:
    values = group.attrs.get(ATTRIBUTE)
    if not isinstance(values, dict):
        raise StoreError(f"{url} is a Zarr group, but not an influence store: it has no manifest")
    if values.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{url} has format version {values.get('format_version')}, this dist_attr reads version {FORMAT_VERSION}"
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise StoreError(f"the manifest of {url} is damaged: {error}") from error


def _check(store: InfluenceStore) -> None:
    expected = (len(store.manifest.sources), store.manifest.space.size)
    try:
        shape, steps = store._array(TANGENTS).shape, np.asarray(store._array(STEPS)[:])
    except (KeyError, OSError, ValueError) as error:
        raise StoreError(f"{store.url} is damaged: {error}") from error
    if shape != expected or steps.shape != expected[:1]:
        raise StoreError(f"{store.url} is damaged: its tangents have shape {shape}, its manifest says {expected}")
    if missing := [
        record.name
        for record, step in zip(store.manifest.sources, steps, strict=True)
        if step < 0 and record.failed is None
    ]:
        raise StoreError(f"{store.url} is not finished, these sources are missing: {', '.join(missing)}")
    if not store.manifest.complete:
        raise StoreError(f"{store.url} is not finished: its run was stopped before it saved the model")
