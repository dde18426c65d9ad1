"""Writing a store: the driver creates and finishes it, each actor writes the rows of its own sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from dist_attr.errors import DivergenceError, SimulationError, StoreError
from dist_attr.store.layout import CHECKSUMS, STEPS, TANGENTS, checksum, create_arrays, exists, zarr_store
from dist_attr.store.manifest import ATTRIBUTE, Manifest, ModelIdentity


class StoreWriter:
    """An unfinished store at a URL. Any number of processes may hold one; each writes other rows."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._group = zarr.open_group(zarr_store(url, "w"), mode="r+", zarr_format=3)
        self._manifest = Manifest.model_validate(self._group.attrs[ATTRIBUTE])

    @classmethod
    def create(cls, url: str, manifest: Manifest) -> StoreWriter:
        """An empty, unfinished store. Raises StoreError when something lies at the URL already."""
        if exists(url):
            raise StoreError(f"there is something at {url} already; choose another place or remove it")
        attributes: dict[str, Any] = {ATTRIBUTE: manifest.model_dump(mode="json")}
        group = zarr.create_group(zarr_store(url, "w"), attributes=attributes, zarr_format=3)
        create_arrays(group, len(manifest.sources), manifest.space.size)
        return cls(url)

    def write(self, source: int, tangent: NDArray[np.float32], step: int) -> None:
        """The tangent (P,) of a source after a number of steps; its checksum and its step go last.

        Raises:
            DivergenceError: the tangent is not finite. Nothing is written.
        """
        if not np.isfinite(tangent).all():
            name = self._manifest.sources[source].name
            raise DivergenceError(
                f"the simulation of source {name!r} diverged: its tangent is not finite; "
                "lower training.learning_rate, or clip with training.gradient_clipping"
            )
        self._array(TANGENTS)[source] = tangent
        self._array(CHECKSUMS)[source] = checksum(tangent)
        self._array(STEPS)[source] = step

    def finish(self, model: ModelIdentity, failed: Mapping[int, str] | None = None) -> None:
        """Declare the store complete.

        Args:
            model: what the tangents belong to.
            failed: sources whose simulation failed, and why; they stay in the sources table without a tangent.

        Raises:
            StoreError: a source is missing that did not fail.
            SimulationError: all sources failed.
        """
        sources = tuple(
            record.model_copy(update={"failed": (failed or {}).get(row)})
            for row, record in enumerate(self._manifest.sources)
        )
        steps = np.asarray(self._array(STEPS)[:])
        missing = [record.name for record, step in zip(sources, steps, strict=True) if step < 0 and not record.failed]
        if missing:
            raise StoreError(f"{self.url} cannot be finished, these sources are not written: {', '.join(missing)}")
        if all(record.failed for record in sources):
            raise SimulationError(f"the simulation of every source failed; of the first: {sources[0].failed}")
        updates = {"complete": True, "model": model, "sources": sources}
        manifest = Manifest.model_validate({**self._manifest.model_dump(), **updates})
        self._group.attrs[ATTRIBUTE] = manifest.model_dump(mode="json")

    def _array(self, name: str) -> zarr.Array[Any]:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array
