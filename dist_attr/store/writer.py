"""Writing a store: the driver creates and finishes it, each actor writes the rows of its own sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from dist_attr.errors import DivergenceError, SimulationError, StoreError
from dist_attr.store.codecs import LARGEST, Codec, Encoded
from dist_attr.store.layout import CHECKSUMS, SOURCES, STEPS, checksum, create_arrays, rows_of
from dist_attr.store.manifest import ATTRIBUTE, Manifest, ModelIdentity
from dist_attr.store.places import Place, clear_damage, clear_errors
from dist_attr.store.reader import opened
from dist_attr.store.table import SourceRecord, read_table, write_table


class StoreWriter:
    """An unfinished store. Any number of processes may hold one; each writes other rows."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self._place = Place(url, options or {})
        self._group, self.manifest, self._arrays = opened(self._place, read_only=False)
        if self.manifest.complete:
            raise StoreError(f"{url} is finished; it is not written to any more")
        self._codec = Codec.of(self.manifest.encoding)
        self._records = read_table(self._place, self.manifest)

    @classmethod
    def create(
        cls,
        url: str,
        manifest: Manifest,
        records: Sequence[SourceRecord],
        *,
        options: Mapping[str, Any] | None = None,
        go_on: bool = False,
    ) -> StoreWriter:
        """An unfinished store with an empty row for each source.

        Args:
            url: where; any fsspec URL.
            manifest: what it will hold.
            records: the sources table.
            options: fsspec's storage options.
            go_on: take the unfinished store that is there, if it is to hold the same; rows it has are kept.

        Raises:
            StoreError: something else lies there already.
        """
        place = Place(url, options or {})
        if place.exists():
            there = manifest_at(place) if go_on else None
            if there is not None and not there.complete and _alike(there, manifest):
                writer = cls(url, options)
                if [record.name for record in writer._records] == [record.name for record in records]:
                    return writer
            if there is not None or not go_on:
                raise StoreError(f"there is something at {url} already; choose another place or remove it")
        write_table(place, records)
        with clear_errors(url):
            store = place.zarr_store(read_only=False)
            create_arrays(store, len(records), manifest.space.size, Codec.of(manifest.encoding))
            # The manifest comes last: a store whose making was cut short is none yet.
            zarr.open_group(store, mode="r+").attrs.update(manifest.attributes())
        return cls(url, options)

    def write(self, source: int, tangent: NDArray[np.float32], step: int) -> None:
        """Encode and write the tangent (P,) of a source after a number of steps; its checksum and its step go last.

        A row that is there already, the same after the same number of steps, is left as it is.

        Raises:
            DivergenceError: the tangent is not finite. Nothing is written.
            StoreError: the place cannot be written to, after all retries.
        """
        if not np.abs(tangent).max() <= LARGEST:
            raise DivergenceError(
                f"the simulation of source {self._records[source].name!r} diverged: its tangent is not finite; "
                "lower training.learning_rate, or clip with training.gradient_clipping"
            )
        self.put(source, self._codec.encode(tangent), step)

    def put(self, source: int, row: Encoded, step: int) -> None:
        """Write a row that is encoded already."""
        seal = checksum(row)
        steps, seals = self._arrays[STEPS], self._arrays[CHECKSUMS]
        with clear_errors(self.url):
            if self.holds(source, step, seal.tobytes().hex()):
                return
            steps[source] = -1
            for name, values in zip(rows_of(self._codec), (row.values, row.scales), strict=False):
                self._arrays[name][source] = values
            seals[source] = seal
            steps[source] = step

    def holds(self, source: int, step: int, seal: str) -> bool:
        """Whether a row is there already, after this number of steps and with this sha256."""
        with clear_errors(self.url):
            return bool(
                self._arrays[STEPS][source] == step
                and np.asarray(self._arrays[CHECKSUMS][source]).tobytes().hex() == seal
            )

    def finish(self, model: ModelIdentity, failed: Mapping[int, str] | None = None) -> None:
        """Declare the store complete.

        Args:
            model: what the tangents belong to.
            failed: sources whose simulation failed, and why; they stay in the sources table without a tangent.

        Raises:
            StoreError: a source is missing that did not fail.
            SimulationError: all sources failed.
        """
        failed = failed or {}
        with clear_errors(self.url):
            steps, seals = np.asarray(self._arrays[STEPS][:]), np.asarray(self._arrays[CHECKSUMS][:])
        missing = [record.name for row, record in enumerate(self._records) if steps[row] < 0 and not failed.get(row)]
        if missing:
            raise StoreError(f"{self.url} cannot be finished, these sources are not written: {', '.join(missing)}")
        if len(failed) == len(self._records):
            raise SimulationError(f"the simulation of every source failed; of the first: {failed[0]}")
        records = [
            record.model_copy(update={"failed": why, "checksum": None if why else seals[row].tobytes().hex()})
            for row, record in enumerate(self._records)
            for why in [failed.get(row)]
        ]
        table = write_table(self._place, records)
        updates = {"complete": True, "model": model, "sources_checksum": table}
        manifest = Manifest.model_validate({**self.manifest.model_dump(), **updates})
        with clear_errors(self.url):
            self._group.attrs.update(manifest.attributes())


def manifest_at(place: Place) -> Manifest | None:
    """The manifest of the store at a place, finished or not; none if there is nothing, or its making was cut short.

    Raises:
        StoreError: something else lies there, or a damaged store.
    """
    files, path = place.files()
    with clear_damage(f"cannot open what lies at {place.url}"), clear_errors(place.url):
        files.invalidate_cache(path)
        if not files.exists(path):
            return None
        names = {str(name).rpartition("/")[2] for name in files.ls(path, detail=False)} - {f"{SOURCES}.part"}
        if not names:
            return None
        if not names & {SOURCES, "zarr.json"}:
            raise StoreError(f"what lies at {place.url} is no influence store; choose another place")
        if SOURCES in names:
            try:
                group = zarr.open_group(place.zarr_store(read_only=True), mode="r")
            except FileNotFoundError:
                return None
            if ATTRIBUTE not in group.attrs:
                return None
    return opened(place, read_only=True)[1]


def _alike(one: Manifest, other: Manifest) -> bool:
    """Whether the rows of one belong into the other. Measured settings may differ: each row has its checksum."""
    return all(getattr(one, name) == getattr(other, name) for name in ("computes", "space", "encoding", "sources"))
