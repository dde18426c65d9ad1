"""The rows of a corpus file, each with the place where it stands."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import IO, Any, TypeAlias

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from dist_attr.errors import CorpusError

Row: TypeAlias = tuple[str, dict[str, Any]]


def read_rows(path: str, setting: str = "corpus.path") -> Iterator[Row]:
    """Place ("FILE, line 3" or "FILE, row 3", counted from 1) and fields of each row of a JSONL or Parquet file.

    Args:
        path: ends in .jsonl, .jsonl.gz or .parquet; any fsspec URL. Blank lines of a JSONL file are passed over.
        setting: what the user gave the path as, for errors.

    Raises:
        CorpusError: the file is missing or damaged, of another kind, or holds a line that is not a JSON object.
    """
    if not path.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        raise CorpusError(f"{path} is of an unknown kind; {setting} ends in .jsonl, .jsonl.gz or .parquet")
    try:
        with _open(path, setting) as file:
            yield from _parquet_rows(path, file) if path.endswith(".parquet") else _json_rows(path, file)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise CorpusError(f"{path} cannot be read: {error}; check that the file is complete") from error


def _open(path: str, setting: str) -> IO[bytes]:
    try:
        file: IO[bytes] = fsspec.open(path, "rb", compression="gzip" if path.endswith(".gz") else None).open()
    except FileNotFoundError as error:
        raise CorpusError(f"{path} does not exist; check {setting}") from error
    except Exception as error:  # each storage library has its own errors for credentials, hosts and protocols
        raise CorpusError(f"{path} cannot be opened: {error}; check {setting} and the access to it") from error
    return file


def _json_rows(path: str, file: IO[bytes]) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        place = f"{path}, line {number}"
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CorpusError(f"{place}: not UTF-8 ({error}); save the file as UTF-8") from error
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise CorpusError(f"{place}: not JSON ({error}); each line must be one JSON object") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{place}: a JSON {type(row).__name__}, not an object; each line must be one JSON object")
        yield place, row


def _parquet_rows(path: str, file: IO[bytes]) -> Iterator[Row]:
    number = 0
    for batch in pq.ParquetFile(file).iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield f"{path}, row {number}", row
