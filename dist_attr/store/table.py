"""The sources table: one Parquet file that anything reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from dist_attr.config import Settings
from dist_attr.errors import StoreError
from dist_attr.store.layout import SOURCES
from dist_attr.store.places import Place, clear_errors

MOST_BYTES = 2**31  # of the table in memory
COLUMNS = pa.schema(
    [
        ("name", pa.string()),
        ("documents", pa.int64()),
        ("tokens", pa.int64()),
        ("trained_tokens", pa.int64()),
        ("first_step", pa.int64()),
        ("last_step", pa.int64()),
        ("examples", pa.list_(pa.string())),
        ("failed", pa.string()),
        ("checksum", pa.string()),
    ]
)


class SourceRecord(Settings):
    """One row of the sources table."""

    name: str
    documents: int
    tokens: int = Field(description="in the corpus")
    trained_tokens: int = Field(description="targets of this source in the run's steps, repeats counted")
    first_step: int | None = Field(description="that saw the source; none if the run never did")
    last_step: int | None
    examples: tuple[str, ...] = Field(description="a few document ids")
    failed: str | None = Field(None, description="why the source has no tangent; none if it has one")
    checksum: str | None = Field(None, description="sha256 of the encoded tangent; none until the store is complete")


def write_table(place: Place, records: Sequence[SourceRecord]) -> str:
    """Write the table of a store; its sha256."""
    sink = pa.BufferOutputStream()
    rows = [record.model_dump(mode="json") for record in records]
    pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    files, path = place.files()
    with clear_errors(place.url, making=True):
        if place.local is not None:  # elsewhere there are no folders, and a missing bucket is not for us to make
            files.makedirs(path, exist_ok=True)
        # A table is whole or not there, also where a file appears before all of it is written.
        files.pipe_file(f"{path}/{SOURCES}.part", data)
        files.mv(f"{path}/{SOURCES}.part", f"{path}/{SOURCES}")
    return hashlib.sha256(data).hexdigest()


def read_table(place: Place, expected: str | None) -> tuple[SourceRecord, ...]:
    """Read the table of a store. Raises StoreError when it is damaged, or has not the expected sha256."""
    files, path = place.files()
    try:
        with clear_errors(place.url):
            data = files.cat_file(f"{path}/{SOURCES}")
    except FileNotFoundError as error:
        raise StoreError(f"{place.url} is damaged: {SOURCES} is missing") from error
    if expected is not None and hashlib.sha256(data).hexdigest() != expected:
        raise StoreError(f"{place.url} is damaged: {SOURCES} does not have its checksum")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        groups = range(file.metadata.num_row_groups)
        if sum(file.metadata.row_group(i).total_byte_size for i in groups) > MOST_BYTES:
            raise StoreError(f"{place.url} is damaged: {SOURCES} is larger than any sources table")
        return tuple(SourceRecord.model_validate(row) for row in file.read(columns=COLUMNS.names).to_pylist())
    except (pa.ArrowException, OSError, ValidationError, MemoryError) as error:
        raise StoreError(f"{place.url} is damaged: {SOURCES} cannot be read: {error}") from error
