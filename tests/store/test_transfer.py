"""Copies, merges and removals of stores, on a local directory and in memory."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dist_attr.config import CodecName, RunConfig, StoreConfig
from dist_attr.errors import StoreError
from dist_attr.store import (
    Codec,
    InfluenceStore,
    Place,
    SourceRecord,
    Space,
    StoreWriter,
    UnfinishedStore,
    copy_model,
    copy_store,
    merge_stores,
    open_store,
    parts_of,
    remove_store,
    store_at,
)
from tests.store.test_store import IDENTITY, manifest

SIZE = 1001  # no multiple of a block, and odd
CODECS: tuple[CodecName, ...] = ("float32", "bfloat16", "int8", "int4")
NAMES = ("ant", "bee", "cat", "dog")


def rows_of(names: tuple[str, ...] = NAMES) -> NDArray[np.float32]:
    """The tangents of all names; a name's is the same in every store."""
    draws = [np.random.default_rng([ord(letter) for letter in name]) for name in names]
    return np.stack([draw.standard_t(3, SIZE) * 10.0 ** draw.integers(-4, 2, SIZE) for draw in draws]).astype(
        np.float32
    )


def make(
    url: str,
    codec: CodecName = "float32",
    names: tuple[str, ...] = NAMES,
    failed: Mapping[str, str] | None = None,
    finish: bool = True,
    **changes: Any,
) -> str:
    """A store of some sources; those that failed have no tangent."""
    failed = failed or {}
    values = {"space": Space(names=("weight",), shapes=((SIZE,),), coverage=1.0), "encoding": StoreConfig(codec=codec)}
    records = [
        SourceRecord(name=name, documents=1, tokens=2, trained_tokens=2, first_step=0, last_step=1, examples=())
        for name in names
    ]
    writer = StoreWriter.create(url, manifest(**{**values, "sources": len(names), **changes}), records)
    for number, (name, row) in enumerate(zip(names, rows_of(names), strict=True)):
        if name not in failed:
            writer.write(number, row, RunConfig().steps)
    if finish:
        writer.finish(IDENTITY, {number: failed[name] for number, name in enumerate(names) if name in failed})
    return url


def copied(store: str, target: str, **how: Any) -> InfluenceStore:
    copy_store(open_store(store), Place(target), **how)
    return open_store(target)


def interrupt_after(rows: int) -> Callable[[], None]:
    """Ctrl-C once so many rows are there."""
    left = itertools.count(rows - 1, -1)

    def progress() -> None:
        if next(left) == 0:
            raise KeyboardInterrupt

    return progress


def damage(store: Path, row: int) -> None:
    shard = store / "tangents" / "c" / str(row) / "0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))


@pytest.mark.parametrize(("one", "other"), list(itertools.product(CODECS, CODECS)))
def test_law_7_a_conversion_errs_by_no_more_than_both_codecs(one: CodecName, other: CodecName, tmp_path: Path) -> None:
    store = open_store(make(f"{tmp_path}/a.zarr", one))
    copy = copied(store.url, f"{tmp_path}/b.zarr", encoding=StoreConfig(codec=other, block_size=32))
    assert copy.manifest.encoding == StoreConfig(codec=other, block_size=32)
    assert copy.sources == store.sources and copy.manifest.identity != store.manifest.identity
    first, second = store.tangents(), copy.tangents()
    for row, mine, copy_of_it in zip(rows_of(), first, second, strict=True):
        bound = store.codec.bound(row).astype(np.float64) + copy.codec.bound(mine)
        assert (np.abs(copy_of_it.astype(np.float64) - row) <= bound).all()
    if other == "float32":
        assert np.array_equal(second, first)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("place", ["memory", "path"])
def test_a_copy_in_the_same_codec_is_the_same_bit_for_bit(codec: CodecName, place: str, tmp_path: Path) -> None:
    target = f"memory://same-{codec}/b.zarr" if place == "memory" else f"{tmp_path}/deep/er/b.zarr"
    store = open_store(make(f"{tmp_path}/a.zarr", codec))
    copy = copied(store.url, target)
    assert copy.records == store.records  # with the checksums
    for row in range(len(NAMES)):
        one, other = store.encoded(row), copy.encoded(row)
        assert np.array_equal(one.values, other.values) and np.array_equal(one.scales, other.scales)
    # All but these is kept.
    assert store.manifest.model_dump(exclude={"identity", "created", "sources_checksum"}) == copy.manifest.model_dump(
        exclude={"identity", "created", "sources_checksum"}
    )


def test_a_failed_source_stays_in_the_table_unless_others_are_chosen(tmp_path: Path) -> None:
    store = make(f"{tmp_path}/a.zarr", failed={"bee": "it diverged"})
    whole = copied(store, f"{tmp_path}/b.zarr")
    assert [record.failed for record in whole.records] == [None, "it diverged", None, None]
    assert np.array_equal(whole.tangents(), rows_of(("ant", "cat", "dog")))
    some = copied(store, f"{tmp_path}/c.zarr", sources=["dog", "ant"])
    assert [record.name for record in some.records] == ["ant", "dog"]  # in the store's order
    assert np.array_equal(some.tangents(), rows_of(("ant", "dog")))
    with pytest.raises(StoreError, match="no tangents of bee, eel"):
        copied(store, f"{tmp_path}/d.zarr", sources=["ant", "bee", "eel"])
    assert not (tmp_path / "d.zarr").exists()


@pytest.mark.parametrize("codec", ["float32", "int4"])
def test_an_interrupted_copy_goes_on(codec: CodecName, tmp_path: Path) -> None:
    store, target, encoding = make(f"{tmp_path}/a.zarr"), tmp_path / "b.zarr", StoreConfig(codec=codec)
    with pytest.raises(KeyboardInterrupt):
        copied(store, str(target), encoding=encoding, progress=interrupt_after(2))
    there = store_at(Place(str(target)))
    assert isinstance(there, UnfinishedStore)
    assert there.written == ["ant", "bee"] and there.missing == ["cat", "dog"]
    shards = [target / "tangents" / "c" / row / "0" for row in "01"]
    before = [shard.stat().st_mtime_ns for shard in shards]
    copy = copied(store, str(target), encoding=encoding)
    assert [shard.stat().st_mtime_ns for shard in shards] == before  # what was there was not written again
    assert copy.manifest.identity == there.manifest.identity
    once = copied(store, f"{tmp_path}/c.zarr", encoding=encoding)
    assert copy.records == once.records and np.array_equal(copy.tangents(), once.tangents())


def test_what_an_interrupted_copy_wrote_is_not_read_again(tmp_path: Path) -> None:
    store, target = tmp_path / "a.zarr", str(tmp_path / "b.zarr")
    make(str(store))
    with pytest.raises(KeyboardInterrupt):
        copied(str(store), target, progress=interrupt_after(2))
    damage(store, 0)
    assert np.array_equal(copied(str(store), target).tangents(), rows_of())


@pytest.mark.parametrize(
    "how",
    [{"sources": ["cat", "dog"]}, {"sources": ["ant"]}, {"encoding": StoreConfig(codec="int8")}],
    ids=["as many other sources", "fewer sources", "another codec"],
)
def test_a_copy_does_not_go_on_with_another(how: dict[str, Any], tmp_path: Path) -> None:
    store, target = make(f"{tmp_path}/a.zarr"), f"{tmp_path}/b.zarr"
    with pytest.raises(KeyboardInterrupt):
        copied(store, target, sources=["ant", "bee"], progress=interrupt_after(1))
    with pytest.raises(StoreError, match=r"there is something at .*b\.zarr already"):
        copied(store, target, **how)
    assert np.array_equal(copied(store, target, sources=["ant", "bee"]).tangents(), rows_of(("ant", "bee")))


def test_a_copy_cut_short_before_its_first_row_goes_on(tmp_path: Path) -> None:
    store, target = make(f"{tmp_path}/a.zarr"), tmp_path / "b.zarr"
    target.mkdir()
    (target / "sources.parquet.part").write_bytes(b"half a table")
    assert np.array_equal(copied(store, str(target)).tangents(), rows_of())


def test_a_copy_overwrites_nothing(tmp_path: Path) -> None:
    store = make(f"{tmp_path}/a.zarr")
    with pytest.raises(StoreError, match=r"there is something at .*a\.zarr already"):
        copied(store, store)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"what lies at .*notes is no influence store"):
        copied(store, f"{tmp_path}/notes")
    assert [file.name for file in (tmp_path / "notes").iterdir()] == ["diary.txt"]
    assert np.array_equal(open_store(store).tangents(), rows_of())


@pytest.mark.parametrize("codec", ["float32", "int8"])
def test_a_damaged_source_stops_the_copy(codec: CodecName, tmp_path: Path) -> None:
    store, target = make(f"{tmp_path}/a.zarr"), f"{tmp_path}/b.zarr"
    damage(tmp_path / "a.zarr", 2)
    with pytest.raises(StoreError, match="source 'cat' is damaged"):
        copied(store, target, encoding=StoreConfig(codec=codec))
    with pytest.raises(StoreError, match="not finished"):
        open_store(target)
    rest = copied(store, f"{tmp_path}/c.zarr", sources=["ant", "bee", "dog"])
    assert np.array_equal(rest.tangents(), rows_of(("ant", "bee", "dog")))


def test_stores_of_one_run_are_merged(tmp_path: Path) -> None:
    one = open_store(make(f"{tmp_path}/a.zarr", "int8", ("ant", "bee", "dog"), failed={"bee": "node lost"}))
    other = open_store(make(f"{tmp_path}/b.zarr", "int8", ("bee", "cat"), failed={"cat": "it diverged"}))
    with pytest.raises(KeyboardInterrupt):
        merge_stores([one, other], Place(f"{tmp_path}/c.zarr"), progress=interrupt_after(2))
    merge_stores([one, other], Place(f"{tmp_path}/c.zarr"))
    merged = open_store(f"{tmp_path}/c.zarr")
    assert [record.name for record in merged.records] == ["ant", "bee", "dog", "cat"]
    assert [record.failed for record in merged.records] == [None, None, None, "it diverged"]
    codec = Codec.of(StoreConfig(codec="int8"))
    for row, name in enumerate(["ant", "bee", "dog"]):
        expected = codec.encode(rows_of((name,))[0])
        assert np.array_equal(merged.encoded(row).values, expected.values)
    assert merged.verify() == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"computes": "f" * 64}, "not of one run: they differ in computes"),
        ({"corpus": "f" * 64, "computes": "f" * 64}, "differ in computes, corpus"),
        ({"encoding": StoreConfig(codec="int8", block_size=32)}, "int8 with 32 numbers a scale and int8 with 64"),
        ({}, "both have a tangent of 'bee'"),
    ],
)
def test_what_does_not_belong_together_is_not_merged(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    one = open_store(make(f"{tmp_path}/a.zarr", "int8", ("ant", "bee")))
    other = open_store(make(f"{tmp_path}/b.zarr", "int8", ("bee", "cat"), **changes))
    with pytest.raises(StoreError, match=message):
        merge_stores([one, other], Place(f"{tmp_path}/c.zarr"))
    assert not (tmp_path / "c.zarr").exists()


def model_files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What lies in a model's folder, adapters too."""
    folder = tmp_path / "run" / "model"
    (folder / "adapter").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 100)
    (folder / "adapter" / "config.json").write_text('{"peft": 1}')
    return folder


def test_the_model_beside_a_store_is_copied_before_the_copy_is_complete(model: Path, tmp_path: Path) -> None:
    store, target = make(f"{tmp_path}/run/a.zarr"), tmp_path / "copy" / "a.zarr"
    copied(store, f"{tmp_path}/bare/a.zarr")
    assert not (tmp_path / "bare" / "model").exists()
    # Where the model cannot be written, the copy is not complete.
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "model").write_text("in the way")
    with pytest.raises(StoreError, match="cannot reach"):
        copied(store, str(target), model=True)
    assert isinstance(store_at(Place(str(target))), UnfinishedStore)
    (tmp_path / "copy" / "model").unlink()
    copied(store, str(target), model=True)
    assert model_files(tmp_path / "copy" / "model") == model_files(model)


def test_a_model_that_is_there_stays_and_half_a_one_is_copied_anew(model: Path, tmp_path: Path) -> None:
    source, target = Place(f"{tmp_path}/run/a.zarr"), Place(f"{tmp_path}/copy/a.zarr")
    (tmp_path / "copy" / "model").mkdir(parents=True)
    (tmp_path / "copy" / "model" / "weights.bin").write_bytes(b"half")
    assert copy_model(source, target)
    assert model_files(tmp_path / "copy" / "model") == model_files(model)
    (tmp_path / "copy" / "model" / "weights.bin").write_bytes(b"another model")
    assert not copy_model(source, target)
    assert (tmp_path / "copy" / "model" / "weights.bin").read_bytes() == b"another model"
    assert not copy_model(Place(f"{tmp_path}/none/a.zarr"), target)
    before = model_files(model)
    (model / "config.json").unlink()  # beside itself nothing is copied, whatever the model looks like
    assert not copy_model(source, Place(f"{tmp_path}/run/b.zarr"))
    assert model_files(model).items() <= before.items()


def test_a_model_whose_copying_stopped_does_not_look_whole(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy" / "model"
    (target / "weights.bin").mkdir(parents=True)  # in the way
    with pytest.raises(StoreError, match="cannot reach"):
        copy_model(Place(f"{tmp_path}/run/a.zarr"), Place(f"{tmp_path}/copy/a.zarr"))
    assert list(model_files(target)) == ["adapter/config.json"]


@pytest.mark.parametrize("state", ["finished", "unfinished", "manifest lost", "manifest damaged", "table lost"])
def test_a_store_is_removed_and_nothing_else(state: str, model: Path, tmp_path: Path) -> None:
    store = tmp_path / "run" / "a.zarr"
    make(str(store), "int8", finish=state != "unfinished")
    if state == "manifest lost":
        (store / "zarr.json").unlink()
    if state == "manifest damaged":
        (store / "zarr.json").write_text("{half a man")
    if state == "table lost":
        (store / "sources.parquet").unlink()
    before = model_files(model)
    assert sum(parts_of(Place(str(store))).values()) == sum(
        file.stat().st_size for file in store.rglob("*") if file.is_file()
    )
    remove_store(Place(str(store)))
    assert not store.exists() and model_files(model) == before


def test_what_else_lies_in_a_stores_folder_stays(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    make(str(store))
    (store / "notes.txt").write_text("mine")
    remove_store(Place(str(store)))
    assert [file.name for file in store.iterdir()] == ["notes.txt"]


def test_a_store_in_memory_is_removed(tmp_path: Path) -> None:
    url = make("memory://removed/a.zarr")
    remove_store(Place(url))
    assert not Place(url).exists()
    make(url)


def test_what_is_no_store_is_not_removed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "tangents").mkdir(parents=True)
    (folder / "zarr.json").write_text(json.dumps({"attributes": {"mine": 1}}))
    (folder / "sources.parquet").write_bytes(b"PAR1 of another kind PAR1")
    before = model_files(folder)
    for place in (folder, folder / "zarr.json", tmp_path):
        with pytest.raises(StoreError, match="is no influence store"):
            remove_store(Place(str(place)))
    with pytest.raises(StoreError, match="there is no influence store"):
        remove_store(Place(f"{tmp_path}/none.zarr"))
    assert model_files(folder) == before


def test_a_server_that_cannot_be_reached_is_no_damage(tmp_path: Path) -> None:
    """Nobody shall remove a store because the network was down."""
    store = open_store(make(f"{tmp_path}/a.zarr"))
    shards = tmp_path / "a.zarr" / "tangents" / "c" / "1"
    (shards / "0").unlink()
    (shards / "0").symlink_to("0")  # reading it is an OSError, as that of a broken mount
    with pytest.raises(StoreError, match="cannot reach"):
        store.verify()
