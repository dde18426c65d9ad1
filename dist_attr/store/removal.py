"""Removing a store, and nothing but a store."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dist_attr.errors import StoreError
from dist_attr.store.layout import BASIS, SCALES, SOURCES, TANGENTS
from dist_attr.store.manifest import ATTRIBUTE
from dist_attr.store.places import Place, clear_errors
from dist_attr.store.table import COLUMNS

# In the order in which they go: what tells a store from anything else goes last, so that an interrupted removal is
# finished by another.
PARTS = (f"{BASIS}.part", BASIS, TANGENTS, SCALES, "progress", f"{SOURCES}.part", SOURCES, "zarr.json")


def parts_of(place: Place) -> dict[str, int]:
    """The parts of a store that are there, and the bytes of each, whether it is finished, unfinished or damaged.

    Raises:
        StoreError: nothing lies there, or what does has neither a store's manifest nor its sources table.
    """
    files, path = place.files()
    with clear_errors(place.url):
        files.invalidate_cache(path)
        if not files.exists(path):
            raise StoreError(f"there is no influence store at {place.url}")
        if not (_has_manifest(files, path) or _has_table(files, path)):
            raise StoreError(
                f"what lies at {place.url} is no influence store: it has neither a manifest nor a sources table; "
                "nothing was removed"
            )
        return {name: int(files.du(f"{path}/{name}")) for name in PARTS if files.exists(f"{path}/{name}")}


def remove_store(place: Place) -> None:
    """Remove a store. Whatever else lies in its folder stays, and the model beside it.

    Raises:
        StoreError: there is none; see `parts_of`.
    """
    files, path = place.files()
    parts = parts_of(place)
    with clear_errors(place.url):
        for name in parts:
            files.rm(f"{path}/{name}", recursive=True)
        if place.local is not None and not files.ls(path):  # elsewhere there are no folders
            files.rmdir(path)


def _has_manifest(files: Any, path: str) -> bool:
    try:
        return ATTRIBUTE in json.loads(files.cat_file(f"{path}/zarr.json"))["attributes"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return False


def _has_table(files: Any, path: str) -> bool:
    try:
        data = files.cat_file(f"{path}/{SOURCES}")
        return bool(pq.read_schema(pa.BufferReader(data)).names == COLUMNS.names)
    except (FileNotFoundError, NotADirectoryError, pa.ArrowException):
        return False
