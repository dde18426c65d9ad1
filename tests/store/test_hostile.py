"""Stores that were altered on purpose, with every checksum made to fit: refused, or exactly what they say they are."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.zstd import Zstd

from dist_attr.config import CodecName
from dist_attr.errors import StoreError
from dist_attr.store import Codec, open_store
from dist_attr.store.layout import create_arrays
from dist_attr.store.manifest import checksum_of
from dist_attr.store.table import COLUMNS
from scripts.fuzz_store import VALUES, Victim, places

pytestmark = pytest.mark.filterwarnings("ignore")  # Zarr's, of what it is about to refuse
CHUNK = "tangents/c/0/0"
json_values = st.recursive(
    st.sampled_from(VALUES) | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> list[Victim]:
    folder = tmp_path_factory.mktemp("stores")
    return [Victim(folder / f"{codec}.zarr", codec, 2001) for codec in get_args(CodecName)]


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    """A store that a test may keep altered."""
    return Victim(tmp_path / "a.zarr", "int8", 2001)


def sealed(values: Any) -> bytes:
    """The root's zarr.json with the checksum that its manifest then has."""
    values["attributes"]["dist_attr_sha256"] = checksum_of(values["attributes"]["dist_attr"])
    return json.dumps(values).encode()


def alter(victim: Victim, **manifest: Any) -> None:
    values = json.loads((victim.folder / "zarr.json").read_text())
    values["attributes"]["dist_attr"] |= manifest
    (victim.folder / "zarr.json").write_bytes(sealed(values))


@contextmanager
def no_memory(most: int = 2**25) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_any_value_anywhere_in_the_manifest(victims: list[Victim], data: st.DataObject) -> None:
    victim = data.draw(st.sampled_from(victims))
    values = json.loads(victim.files["zarr.json"])
    place, key = data.draw(st.sampled_from(places(values["attributes"]["dist_attr"])))
    place[key] = data.draw(json_values)
    assert not victim.judge({"zarr.json": sealed(values)}, fitting=True).startswith("FAILED")


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_any_value_anywhere_in_an_arrays_metadata(victims: list[Victim], data: st.DataObject) -> None:
    victim = data.draw(st.sampled_from(victims))
    name = data.draw(st.sampled_from([name for name in sorted(victim.files) if name.endswith("/zarr.json")]))
    values = json.loads(victim.files[name])
    place, key = data.draw(st.sampled_from(places(values)))
    place[key] = data.draw(json_values)
    assert not victim.judge({name: json.dumps(values).encode()}, fitting=False).startswith("FAILED")


@given(st.data())
@settings(deadline=None, max_examples=80)
def test_any_bytes_for_any_file(victims: list[Victim], data: st.DataObject) -> None:
    victim = data.draw(st.sampled_from(victims))
    name = data.draw(st.sampled_from(sorted(victim.files)))
    assert not victim.judge({name: data.draw(st.binary(max_size=200))}, fitting=False).startswith("FAILED")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "NaN", "{}", "[]", "\x00", "\ud800"])
@pytest.mark.parametrize("name", ["zarr.json", "tangents/zarr.json"])
def test_json_without_an_end_or_a_meaning(victims: list[Victim], name: str, text: str) -> None:
    assert victims[0].judge({name: text.encode(errors="surrogatepass")}, fitting=False) == "opening"


PICKLE = {"name": "numcodecs.pickle", "configuration": {}}


@pytest.mark.parametrize(
    "changes",
    [
        {"data_type": "object"},
        {"data_type": "|O"},
        {"data_type": "string", "fill_value": ""},
        {"data_type": "variable_length_bytes", "fill_value": ""},
        {"data_type": {"name": "struct", "configuration": {"fields": [["a", "int8"]]}}, "fill_value": "AA=="},
        {"data_type": "uint8"},
        {"data_type": "int64"},
        {"codecs": [PICKLE]},
        {"codecs": [{"name": "bytes"}, PICKLE]},
        {"codecs": [{"name": "numcodecs.zlib", "configuration": {"level": 1}}]},
        {"codecs": [{"name": "vlen-utf8"}]},
        {"codecs": [{"name": "bytes"}]},
        {"codecs": [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 9}}]},
        {"shape": [5, 2**62]},
        {"shape": [2**62, 2001]},
        {"shape": [5, -2001]},
        {"shape": [5, 2000]},
        {"shape": [5]},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 2**62]}}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 0]}}},
        {"chunk_grid": {"name": "../../x", "configuration": {}}},
        {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}},
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "../"}}},
        {"fill_value": 1},
        {"storage_transformers": [{"name": "http://127.0.0.1:9/x"}]},
        {"attributes": {"a": 1}},
        {"dimension_names": ["/etc/passwd", "x"]},
        {"zarr_format": 2},
        {"node_type": "group"},
    ],
    ids=json.dumps,
)
def test_another_array_than_the_manifest_prescribes(victims: list[Victim], changes: dict[str, Any]) -> None:
    victim = victims[get_args(CodecName).index("int8")]
    values = json.loads(victim.files["tangents/zarr.json"]) | changes
    assert victim.judge({"tangents/zarr.json": json.dumps(values).encode()}, fitting=False) == "opening"


@pytest.mark.parametrize(
    "changes",
    [
        {"sources": 2**62},
        {"sources": -1},
        {"sources": 2**31},
        {"space": {"names": ["a"], "shapes": [[2**40, 2**40]], "coverage": 1.0}},
        {"space": {"names": ["a"], "shapes": [[-1, -2001]], "coverage": 1.0}},
        {"space": {"names": ["a"], "shapes": [[2] * 10_000], "coverage": 1.0}},
        {"space": {"names": ["a"], "shapes": [[0]], "coverage": 1.0}},
        {"encoding": {"codec": "int8", "block_size": 0}},
        {"encoding": {"codec": "pickle", "block_size": 64}},
        {"sources_checksum": "../../x"},
        {"model": {"include": ["(" * 50_000]}},
        {"anything": "else"},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_a_manifest_that_cannot_be(victim: Victim, changes: dict[str, Any]) -> None:
    alter(victim, **changes)
    with no_memory(), pytest.raises(StoreError, match=r"a\.zarr is damaged: .") as found:
        open_store(str(victim.folder))
    assert len(str(found.value)) < 1000


def test_more_parameters_than_memory_holds(victim: Victim) -> None:
    """All of it fits together, and no chunk of it need exist."""
    shape = 2**38
    alter(victim, space={"names": ["a"], "shapes": [[shape]], "coverage": 1.0})
    store = zarr.storage.LocalStore(str(victim.folder))
    create_arrays(store, 5, shape, Codec.of(victim.manifest.encoding))
    with no_memory():
        opened = open_store(str(victim.folder))
        for read in (opened.tangents, opened.verify, lambda: opened.encoded(0), lambda: opened.tangents([0])):
            with pytest.raises(StoreError, match=r"take [\d,.]+ GiB, and .* are free"):
                read()


def crc(data: bytes) -> bytes:
    return data + int(google_crc32c.value(data)).to_bytes(4, "little")


def shard(chunk: bytes, offset: int = 0, length: int | None = None) -> bytes:
    """A shard of one chunk, its checksums right."""
    index = np.array([offset, len(chunk) + 4 if length is None else length], "<u8")
    return crc(chunk) + crc(index.tobytes())


BOMB = Zstd(level=1).encode(bytes(2**28))
WHOLE = Zstd(level=1).encode(bytes(2001))
MAGIC = (0xFD2FB528).to_bytes(4, "little")


@pytest.mark.parametrize(
    "data",
    [
        shard(BOMB),
        shard(WHOLE + BOMB),
        shard(MAGIC + b"\xc0" + b"\x38" + (2**50).to_bytes(8, "little") + bytes(16)),
        shard(MAGIC + b"\xe0" + (2**62).to_bytes(8, "little") + bytes(16)),
        shard(MAGIC + b"\x00\xff" + BOMB[6:]),  # of a size that is not told
        shard(Zstd(level=1).encode(bytes(20))),
        shard(WHOLE, length=2**62),
        shard(WHOLE, offset=2**62),
        shard(WHOLE, offset=2**63, length=2**63),
        shard(WHOLE, offset=2**64 - 8),
        shard(WHOLE, offset=0, length=3),
        shard(WHOLE, offset=10**6),
        shard(b""),
    ],
    ids=[
        *("bomb", "second frame", "petabyte", "whole range", "untold size", "short", "long", "far", "overflow", "wrap"),
        *("cut", "behind", "empty"),
    ],
)
def test_a_chunk_that_claims_to_be_more_than_it_is(victim: Victim, data: bytes) -> None:
    (victim.folder / CHUNK).write_bytes(data)
    store = open_store(str(victim.folder))
    with no_memory(), pytest.raises(StoreError, match="source 'ant' is damaged"):
        store.tangents()
    assert np.array_equal(store.tangents([1, 2, 3]), victim.tangents[1:])


def table_of(victim: Victim) -> pa.Table:
    return pq.read_table(victim.folder / "sources.parquet")


def written(victim: Victim, table: pa.Table, sources: int | None = None, **how: Any) -> None:
    how = {"compression": "none", "use_dictionary": False, **how}
    pq.write_table(table, victim.folder / "sources.parquet", **how)
    digest = hashlib.sha256((victim.folder / "sources.parquet").read_bytes()).hexdigest()
    alter(victim, sources_checksum=digest, **({} if sources is None else {"sources": sources}))


def test_a_sources_table_that_is_none(victim: Victim) -> None:
    table = table_of(victim)
    written(victim, table)
    assert open_store(str(victim.folder)).records == victim.records
    names = table.column_names
    for other, how in (
        (table.drop_columns(["checksum"]), {}),
        (table.rename_columns(["path", *names[1:]]), {}),
        (table.append_column("more", pa.array([b"x"] * 5)), {}),
        (table.set_column(0, "name", pa.array(["../../x"] * 5)), {}),  # a name twice
        (table.set_column(0, "name", pa.array([None] * 5, pa.string())), {}),
        (table.set_column(6, "examples", pa.array(["[" * 10**5] * 5)), {}),
        (table.set_column(6, "examples", pa.array(['{"a": 1}'] * 5)), {}),
        (table.set_column(1, "documents", pa.array([b"cos\nsystem\n(S'true'\ntR."] * 5)), {}),
        (table.slice(0, 4), {}),
        (table, {"compression": "zstd"}),
        (table, {"use_dictionary": True}),
    ):
        written(victim, other, **how)
        with no_memory(), pytest.raises(StoreError, match=r"sources\.parquet cannot be read: .") as found:
            open_store(str(victim.folder))
        assert len(str(found.value)) < 1000


@pytest.mark.parametrize("sources", [5, 3_000_000])
def test_a_sources_table_of_more_rows_than_bytes(victim: Victim, sources: int) -> None:
    rows = 3_000_000
    blank = pa.table({field.name: pa.nulls(rows, field.type) for field in COLUMNS}, schema=COLUMNS)
    written(victim, blank, sources, data_page_size=2**30, write_batch_size=rows, row_group_size=rows)
    (victim.folder / "tangents" / "zarr.json").unlink()
    create_arrays(zarr.storage.LocalStore(str(victim.folder)), sources, 2001, Codec.of(victim.manifest.encoding))
    with no_memory(), pytest.raises(StoreError, match=r"sources\.parquet cannot be read: it (does not|claims more)"):
        open_store(str(victim.folder))


def test_a_name_that_is_a_path_is_a_name(victim: Victim) -> None:
    names = ["../../x", "/etc/passwd", "http://127.0.0.1:9/x", "\x00", "a" * 500]
    written(victim, table_of(victim).set_column(0, "name", pa.array(names)))
    store = open_store(str(victim.folder))
    assert [record.name for record in store.records] == names
    assert np.array_equal(store.tangents(), victim.tangents) and store.verify() == {}


@pytest.mark.parametrize(
    ("room", "changes", "message"),
    [
        ("training", {"deepspeed": "{file}"}, "no file is read for a manifest"),
        ("training", {"deepspeed": "http://127.0.0.1:9/x.json"}, "no file is read for a manifest"),
        ("simulation", {"parking": "zip::{file}"}, "is no path"),
        ("simulation", {"parking": "http://127.0.0.1:9/x"}, "is no path"),
    ],
)
def test_no_setting_of_a_manifest_is_read(victim: Victim, room: str, changes: dict[str, str], message: str) -> None:
    (victim.folder.parent / "x.json").write_text('{"wall_clock_breakdown": true}')
    run = victim.manifest.run.model_dump(mode="json")
    file = str(victim.folder.parent / "x.json")
    run[room] |= {name: value.replace("{file}", file) for name, value in changes.items()}
    alter(victim, run=run)
    with pytest.raises(StoreError, match=message):
        open_store(str(victim.folder))
