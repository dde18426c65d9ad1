"""An audit cut into parts: what is read out, written and kept together.

Design decisions:
- A part's file is named by the digest of everything that decides what is in it: an interrupted audit goes on with the
  parts that are missing, and a part that is computed twice comes to lie where it was.
- A folder belongs to one audit. What it was started with lies in it, and anything else is refused: two audits in one
  folder would be counted together by whoever reads it.
- Queries of similar length share a part, so that little of a batch is padding. Long ones come first: what is left at
  the end is short, and no worker waits long for the last.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from dist_attr.auditing.queries import AuditQuery
from dist_attr.config import AuditConfig
from dist_attr.errors import ConfigError, StoreError
from dist_attr.readout import ranked_basis
from dist_attr.store import InfluenceStore, Place
from dist_attr.store.manifest import checksum_of

PLAN = "plan.json"
SCORES = "scores"
NO_GROUP = ""  # Hive has a word for a missing value, but pandas does not read a column with it and with names
WORDS = {"store": "another store", "queries": "other queries", "model": "another model"}


@dataclass(frozen=True)
class Part:
    """Some queries of one group.

    Attributes:
        name: of its file, in the folder of the audit.
        queries: in the order of the file's rows.
    """

    name: str
    queries: tuple[AuditQuery, ...]


def plan_of(store: InfluenceStore, queries: Sequence[AuditQuery], config: AuditConfig) -> dict[str, Any]:
    """What decides the scores of an audit, as JSON values. Raises StoreError when there is no basis of that rank."""
    basis = None if config.rank is None else ranked_basis(store, config.rank)
    assert store.manifest.model is not None
    return {
        "store": {
            "identity": store.manifest.identity,
            "sources": store.manifest.sources_checksum,
            "model": store.manifest.model.model_dump(mode="json"),
            "basis": None if basis is None else checksum_of(basis.manifest.model_dump(mode="json")),
        },
        "queries": checksum_of(sorted(query.model_dump_json() for query in queries)),
        **config.decides_scores(),
    }


def check_folder(out: Place, plan: dict[str, Any]) -> None:
    """Make the folder of an audit, or see that it is the same one's.

    Raises:
        ConfigError: it is another's.
        StoreError: it cannot be read or written to.
    """
    data = out.read(PLAN)
    if data is None:
        files, folder = out.files()
        if files.exists(f"{folder}/{SCORES}"):
            raise ConfigError(f"{out.url} holds scores of which nothing says what they are of; give another --out")
        out.write(PLAN, json.dumps(plan, indent=2).encode())
        return
    try:
        before = json.loads(data)
    except ValueError as error:
        raise StoreError(f"{PLAN} in {out.url} is damaged: {error}; give another --out") from error
    if other := [name for name in sorted({*plan, *before}) if plan.get(name) != before.get(name)]:
        said = "; ".join(
            WORDS.get(name, f"{name} {json.dumps(before.get(name))} instead of {json.dumps(plan.get(name))}")
            for name in other
        )
        raise ConfigError(f"{out.url} holds another audit: {said}; give another --out, or the same settings to go on")


def parts_of(plan: dict[str, Any], queries: Sequence[AuditQuery], lengths: Sequence[int], number: int) -> list[Part]:
    """Parts of at most `number` queries, the longest queries first."""
    groups: dict[str | None, list[int]] = {}
    for i in sorted(range(len(queries)), key=lambda i: (-lengths[i], queries[i].name)):
        groups.setdefault(queries[i].group, []).append(i)
    found = []
    for group, members in groups.items():
        folder = f"{SCORES}/group={quote(NO_GROUP if group is None else group, safe='')}"
        for start in range(0, len(members), number):
            own = tuple(queries[i] for i in members[start : start + number])
            digest = checksum_of([plan, [query.model_dump(mode="json") for query in own]])
            longest = lengths[members[start]]
            found.append((longest, Part(f"{folder}/{digest[:32]}.parquet", own)))
    return [part for _, part in sorted(found, key=lambda each: -each[0])]


def finished(out: Place, parts: Sequence[Part]) -> Iterator[Part]:
    """Those parts whose file is there and whole."""
    files, folder = out.files()
    files.invalidate_cache()
    there = set(files.find(f"{folder}/{SCORES}")) if files.exists(f"{folder}/{SCORES}") else set()
    for part in parts:
        path = f"{folder}/{part.name}"
        if path not in there:
            continue
        try:
            with files.open(path, "rb") as file:
                rows = pq.read_metadata(file).num_rows
        except (pa.ArrowException, OSError):
            continue  # a file that was cut off is computed again
        if rows == len(part.queries):
            yield part


def parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
