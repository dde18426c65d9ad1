"""The sources table: one Parquet file that anything reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from dist_attr.config import Settings
from dist_attr.errors import StoreError
from dist_attr.store.layout import SOURCES
from dist_attr.store.manifest import Manifest
from dist_attr.store.places import Place, clear_damage, clear_errors

LEAST_BYTES = 28  # of a row: three numbers, and the length of its name
BATCH = 128  # rows that are read together
COLUMNS = pa.schema(
    [
        ("name", pa.string()),
        ("documents", pa.int64()),
        ("tokens", pa.int64()),
        ("trained_tokens", pa.int64()),
        ("first_step", pa.int64()),
        ("last_step", pa.int64()),
        ("examples", pa.string()),  # a JSON list: what a nested column takes cannot be told before it is read
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
    rows = [{**record.model_dump(mode="json"), "examples": json.dumps(record.examples)} for record in records]
    # Neither compressed nor shared in a dictionary: what reading a table takes can be told from its size.
    pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), sink, compression="none", use_dictionary=False)
    data = sink.getvalue().to_pybytes()
    files, path = place.files()
    with clear_errors(place.url, making=True):
        if place.local is not None:  # elsewhere there are no folders, and a missing bucket is not for us to make
            files.makedirs(path, exist_ok=True)
        # A table is whole or not there, also where a file appears before all of it is written.
        files.pipe_file(f"{path}/{SOURCES}.part", data)
        files.mv(f"{path}/{SOURCES}.part", f"{path}/{SOURCES}")
    return hashlib.sha256(data).hexdigest()


def read_table(place: Place, manifest: Manifest) -> tuple[SourceRecord, ...]:
    """Read the table of a store. Raises StoreError when it is damaged, or is not the one its manifest means."""
    files, path = place.files()
    try:
        with clear_errors(place.url):
            data = files.cat_file(f"{path}/{SOURCES}")
    except FileNotFoundError as error:
        raise StoreError(f"{place.url} is damaged: {SOURCES} is missing") from error
    if manifest.sources_checksum not in (None, hashlib.sha256(data).hexdigest()):
        raise StoreError(f"{place.url} is damaged: {SOURCES} does not have its checksum")
    with clear_damage(f"{place.url} is damaged: {SOURCES} cannot be read"):
        return _records(data, manifest.sources)


def _records(data: bytes, sources: int) -> tuple[SourceRecord, ...]:
    """The rows of a table. Raises whatever is wrong, before they take much more memory than the table itself."""
    file = pq.ParquetFile(pa.BufferReader(data))
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    if not file.schema_arrow.equals(COLUMNS):
        raise ValueError("its columns are not those of a sources table")
    if any(column.compression != "UNCOMPRESSED" or column.has_dictionary_page for column in columns):
        raise ValueError("it is compressed, and no sources table is")
    if not sources == file.metadata.num_rows == sum(group.num_rows for group in groups):
        raise ValueError(f"it does not have the {sources} sources of its manifest")
    if sources * LEAST_BYTES > len(data):
        raise ValueError("it claims more rows than it has bytes for")
    records: dict[str, SourceRecord] = {}
    for batch in file.iter_batches(BATCH):
        if batch.nbytes > 4 * len(data):  # some columns are empty there and not in memory
            raise ValueError("its rows are larger than the table")
        for row in batch.to_pylist():
            record = SourceRecord.model_validate({**row, "examples": json.loads(row["examples"])})
            if record.name in records:
                raise ValueError(f"source {record.name!r} is in it twice")
            records[record.name] = record
    return tuple(records.values())
