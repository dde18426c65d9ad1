"""Reading a store: what is damaged or unfinished is never handed out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import zarr
from numpy.typing import NDArray

from dist_attr.errors import DamagedError, StoreError
from dist_attr.store.codecs import Codec, Encoded
from dist_attr.store.layout import CHECKSUMS, SCALES, STEPS, TANGENTS, Arrays, checksum, create_arrays, open_arrays
from dist_attr.store.manifest import ATTRIBUTE, CHECKSUM, FORMAT_VERSION, Manifest, checksum_of
from dist_attr.store.places import Place, clear_damage, clear_errors
from dist_attr.store.table import SourceRecord, read_table
from dist_attr.store.unfinished import UnfinishedStore

AT_ONCE = 4  # rows that are fetched, checked and decoded side by side


class InfluenceStore:
    """A finished influence store, opened for reading.

    Attributes:
        url: where it is.
        place: the same, with how to reach it.
        manifest: what it holds and belongs to.
        records: its sources table, a failed source's too.
    """

    def __init__(self, place: Place, manifest: Manifest, records: tuple[SourceRecord, ...], arrays: Arrays) -> None:
        self.place = place
        self.url = place.url
        self.manifest = manifest
        self.records = records
        self.codec = Codec.of(manifest.encoding)
        self._arrays = arrays
        self._stored = [row for row, record in enumerate(records) if record.failed is None]

    def __repr__(self) -> str:
        return f"InfluenceStore({self.url!r}, {len(self.sources)} sources × {self.manifest.space.size:,} parameters)"

    @property
    def sources(self) -> list[str]:
        """Names of the sources that have a tangent."""
        return [self.records[row].name for row in self._stored]

    def tangents(self, rows: Sequence[int] | None = None, *, span: slice | None = None) -> NDArray[np.float32]:
        """δ of some of `sources`, or of all: (rows, P).

        Args:
            rows: which; several are fetched side by side.
            span: only these of the P parameters, (rows, stop − start). Their chunks alone are read, and checked by a
                crc32c each; whole rows are checked by their sha256.

        Raises:
            StoreError: a row does not have its checksum, or memory cannot hold them.
        """
        rows = range(len(self._stored)) if rows is None else rows
        start, stop, _ = (span or slice(None)).indices(self.manifest.space.size)
        self.check_memory(4 * len(rows) * (stop - start) + min(AT_ONCE, len(rows)) * self._read(stop - start))
        values = np.empty((len(rows), stop - start), np.float32)

        def fill(number: int, row: int) -> None:
            if span is None:
                self.codec.decode(self.encoded(row), values[number])
            else:
                values[number] = self._part(row, start, stop)

        side_by_side(fill, rows)
        return values

    def encoded(self, row: int) -> Encoded:
        """One of `sources` as it is stored, not decoded: about a quarter of the memory with int8.

        Raises:
            StoreError: it does not have its checksum, or memory cannot hold it.
        """
        size = self.manifest.space.size
        self.check_memory(self._read(size))
        found = self._fetch(row, slice(0, self.codec.length(size)), slice(0, self.codec.blocks(size)))
        if checksum(found).tobytes().hex() != self.records[self._stored[row]].checksum:
            raise DamagedError(f"{self._damaged(row)}, it does not have its checksum")
        return found

    def encoded_rows(self, rows: Sequence[int]) -> list[Encoded]:
        """Several of `sources` as they are stored, fetched side by side. Raises StoreError as `encoded` does."""
        found: list[Encoded | None] = [None] * len(rows)

        def fill(number: int, row: int) -> None:
            found[number] = self.encoded(row)

        side_by_side(fill, rows)
        return [row for row in found if row is not None]

    def _part(self, row: int, start: int, stop: int) -> NDArray[np.float32]:
        """Some numbers of a row; whole blocks are read."""
        block = self.codec.block_size if self.codec.levels else 1
        first = start // block * block
        last = min(-(-stop // block) * block, self.manifest.space.size)
        per_value = 2 if self.codec.name == "int4" else 1
        values = slice(first // per_value, -(-last // per_value))
        scales = slice(first // block, -(-last // block)) if self.codec.levels else slice(0, 0)
        decoded = np.empty(last - first, np.float32)
        self.codec.decode(self._fetch(row, values, scales), decoded)
        if not decoded.any():
            self.encoded(row)  # a lost object reads as zeros too, and then only the checksum of the whole row can tell
        return decoded[start - first : stop - first]

    def _fetch(self, row: int, values: slice, scales: slice) -> Encoded:
        stored = self._stored[row]
        # A damaged chunk fails in whichever codec meets it first.
        with clear_damage(f"{self._damaged(row)}, it cannot be read"), clear_errors(self.url):
            numbers = np.asarray(self._arrays[TANGENTS][stored, values])
            own = np.asarray(self._arrays[SCALES][stored, scales]) if self.codec.levels else np.empty(0, np.float32)
        return Encoded(numbers, own)

    def verify(self, progress: Callable[[], None] = lambda: None) -> dict[str, str]:
        """Check every row; what is wrong by source, empty if nothing is. `progress` is called after each row.

        Raises:
            StoreError: the store could not be reached. A row that could not be checked is not damaged.
        """
        found: dict[str, str] = {}

        self.check_memory(min(AT_ONCE, len(self._stored)) * self._read(self.manifest.space.size))

        def check(_: int, row: int) -> None:
            try:
                self.encoded(row)
            except DamagedError as error:
                found[self.sources[row]] = str(error)
            progress()

        side_by_side(check, range(len(self._stored)))
        return {name: found[name] for name in self.sources if name in found}

    def _read(self, size: int) -> int:
        """Bytes of so many numbers of a row as they are stored."""
        return self.codec.length(size) * self.codec.dtype.itemsize + 4 * self.codec.blocks(size)

    def check_memory(self, needed: int) -> None:
        """Raises StoreError unless so many bytes are free."""
        free = psutil.virtual_memory().available
        if needed > free:
            raise StoreError(
                f"{self.url}: these tangents take {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free; "
                "read fewer sources at a time, or split them over more shards"
            )

    @property
    def stored_bytes(self) -> int:
        """Size of all objects of the store."""
        return self.place.stored_bytes()

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

    def _damaged(self, row: int) -> str:
        return f"{self.url}: the tangent of source {self.sources[row]!r} is damaged"


def side_by_side(work: Callable[[int, int], None], rows: Sequence[int]) -> None:
    """Call `work(number, row)` for each row, a few at a time; the first error stops the rest."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        calls = [pool.submit(work, number, row) for number, row in enumerate(rows)]
        try:
            for call in calls:
                call.result()
        finally:
            pool.shutdown(cancel_futures=True)


def open_store(url: str, *, options: Mapping[str, Any] | None = None, cache: str | None = None) -> InfluenceStore:
    """Open a finished store.

    Args:
        url: any fsspec URL or a local path.
        options: fsspec's storage options, as in {"key": ..., "secret": ..., "endpoint_url": ...}; without them
            credentials come from the environment, a profile or the machine's role.
        cache: a local folder that keeps what is read from a remote store; an object that changed is read anew.

    Raises:
        StoreError: there is none, it is unfinished (naming the missing sources), of another format, or inconsistent.
    """
    found = store_at(Place(url, options or {}, cache))
    if isinstance(found, UnfinishedStore):
        raise StoreError(found.why)
    return found


def store_at(place: Place) -> InfluenceStore | UnfinishedStore:
    """The store at a place, finished or not.

    Raises:
        StoreError: there is none, it is of another format, or inconsistent.
    """
    _, manifest, arrays = opened(place, read_only=True)
    records = read_table(place, manifest)
    if manifest.complete:
        return InfluenceStore(place, manifest, records, arrays)
    with clear_damage(f"{place.url} is damaged: how far it is cannot be read"), clear_errors(place.url):
        steps = np.asarray(arrays[STEPS][:])
    return UnfinishedStore(place, manifest, records, tuple(int(step) for step in steps))


def opened(place: Place, *, read_only: bool) -> tuple[zarr.Group, Manifest, Arrays]:
    """The group at a place, its manifest and its arrays, whether finished or not. Nothing of the arrays is read."""
    url, group = place.url, _group(place, read_only=read_only)
    values = group.attrs.get(ATTRIBUTE)
    if not isinstance(values, dict):
        raise StoreError(f"{url} is a Zarr group, but not an influence store: it has no manifest")
    if (version := values.get("format_version")) != FORMAT_VERSION:
        raise StoreError(f"{url} has format version {version!s:.20}, this dist_attr reads version {FORMAT_VERSION}")
    with clear_damage(f"the manifest of {url} is damaged"):
        if checksum_of(values) != group.attrs.get(CHECKSUM):
            raise ValueError("it does not have its checksum")
        manifest = Manifest.model_validate(values)
        codec, size = Codec.of(manifest.encoding), manifest.space.size
    with clear_damage(f"{url} is damaged"), clear_errors(url):
        arrays = open_arrays(
            group,
            lambda store: create_arrays(store, manifest.sources, size, codec),
            but=(STEPS, CHECKSUMS) if manifest.complete else (),
        )
    return group, manifest, arrays


def _group(place: Place, *, read_only: bool) -> zarr.Group:
    url = place.url
    with clear_damage(f"cannot open the influence store at {url}"), clear_errors(url):
        try:
            return zarr.open_group(
                place.zarr_store(read_only=read_only),
                mode="r" if read_only else "r+",
                zarr_format=3,
                use_consolidated=False,  # the arrays are described once
            )
        except FileNotFoundError as error:
            inner = Place(f"{url.rstrip('/')}/influence.zarr", place.options)
            hint = f"; did you mean {inner.url}?" if inner.exists() else ""
            raise StoreError(f"there is no influence store at {url}{hint}") from error
