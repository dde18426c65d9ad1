"""Copies of stores: at another place, of another codec, of some sources, of several stores of one run."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from dist_attr.config import StoreConfig
from dist_attr.errors import StoreError
from dist_attr.store.manifest import Manifest
from dist_attr.store.places import Place, clear_errors
from dist_attr.store.reader import InfluenceStore
from dist_attr.store.table import SourceRecord
from dist_attr.store.writer import StoreWriter

Progress = Callable[[], None]
SAME = ("computes", "corpus", "model", "space", "encoding", "descent")  # in all stores of one run


def copy_store(
    store: InfluenceStore,
    target: Place,
    *,
    encoding: StoreConfig | None = None,
    sources: Sequence[str] | None = None,
    model: bool = False,
    progress: Progress = lambda: None,
) -> None:
    """Write a finished store to another place; an interrupted copy goes on when it is started again.

    Args:
        store: what is copied. Every row is checked on the way.
        target: where to; nothing may lie there but an unfinished copy of the same.
        encoding: another codec. What the store's own lost does not come back.
        sources: only these; all by default, with the records of those that failed.
        model: copy the model beside the store too, before the copy is declared complete.
        progress: called after each row.

    Raises:
        StoreError: a source is unknown, a row is damaged, or the target cannot be written.
    """
    if unknown := [name for name in sources or () if name not in store.sources]:
        raise StoreError(f"{store.url} has no tangents of {', '.join(unknown)}")
    kept = [record for record in store.records if sources is None or record.name in sources]
    # What was measured is true of the same tangents only.
    same = len(kept) == len(store.records) and encoding in (None, store.manifest.encoding)
    manifest = store.manifest.model_copy(
        update={
            "encoding": encoding or store.manifest.encoding,
            "fidelity": store.manifest.fidelity if same else (),
        }
    )
    _write(target, manifest, [(record, store) for record in kept], store.place if model else None, progress)


def merge_stores(
    stores: Sequence[InfluenceStore], target: Place, *, model: bool = False, progress: Progress = lambda: None
) -> None:
    """Write the sources of several stores of one run into one store; an interrupted one goes on as a copy does.

    A source may be in several if all but one of them say that it failed. The model is that beside the first.

    Raises:
        StoreError: they are not of one run or differ in codec, or two have tangents of the same source.
    """
    first = stores[0]
    for store in stores[1:]:
        different = [name for name in SAME if getattr(store.manifest, name) != getattr(first.manifest, name)]
        if different == ["encoding"]:
            codecs = f"{_named(store)} and {_named(first)}"
            raise StoreError(f"{store.url} and {first.url} differ in codec, {codecs}; copy one with the other's first")
        if different:
            raise StoreError(f"{store.url} and {first.url} are not of one run: they differ in {', '.join(different)}")
    rows: dict[str, tuple[SourceRecord, InfluenceStore]] = {}
    for store in stores:
        for record in store.records:
            known = rows.get(record.name)
            if known and known[0].failed is None and record.failed is None:
                raise StoreError(f"{known[1].url} and {store.url} both have a tangent of {record.name!r}")
            if known is None or known[0].failed is not None:
                rows[record.name] = (record, store)
    manifest = first.manifest.model_copy(update={"fidelity": ()})  # measured of some of the sources
    _write(target, manifest, list(rows.values()), first.place if model else None, progress)


def _named(store: InfluenceStore) -> str:
    blocks = f" with {store.codec.block_size} numbers a scale" if store.codec.levels else ""
    return f"{store.codec.name}{blocks}"


def _write(
    target: Place,
    manifest: Manifest,
    rows: Sequence[tuple[SourceRecord, InfluenceStore]],
    model_of: Place | None,
    progress: Progress,
) -> None:
    model, steps = manifest.model, manifest.run.steps
    assert model is not None
    empty = Manifest.model_validate(
        {
            **manifest.model_dump(),
            "identity": str(uuid.uuid4()),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "complete": False,
            "model": None,
            "sources": len(rows),
            "sources_checksum": None,
        }
    )
    blank = [record.model_copy(update={"failed": None, "checksum": None}) for record, _ in rows]
    writer = StoreWriter.create(target.url, empty, blank, options=target.options, go_on=True)
    for number, (record, store) in enumerate(rows):
        if record.failed is None:
            row = store.sources.index(record.name)
            if store.manifest.encoding == manifest.encoding:
                assert record.checksum is not None
                if not writer.holds(number, steps, record.checksum):  # what an interrupted copy wrote is not read anew
                    writer.put(number, store.encoded(row), steps)
            else:
                writer.write(number, store.tangents([row])[0], steps)
        progress()
    if model_of is not None:
        copy_model(model_of, target)
    writer.finish(model, {number: why for number, (record, _) in enumerate(rows) if (why := record.failed)})


def copy_model(store: Place, target: Place) -> bool:
    """Copy the model that lies beside a store to beside another; False if there is none, or one there already.

    Its config.json goes last: a model without one is the rest of an interrupted copy, and copied anew.
    """
    (files, source), (others, path) = store.beside("model").files(), target.beside("model").files()
    with clear_errors(target.url):
        others.invalidate_cache(path)
        if (files, source) == (others, path) or not files.exists(source) or others.exists(f"{path}/config.json"):
            return False
        for name in sorted(files.find(source), key=lambda name: name == f"{source}/config.json"):
            inside = f"{path}/{name[len(source) :].lstrip('/')}"
            if target.local is not None:
                others.makedirs(inside.rpartition("/")[0], exist_ok=True)
            with files.open(name, "rb") as reader, others.open(inside, "wb") as writer:
                while piece := reader.read(2**24):
                    writer.write(piece)
    return True
