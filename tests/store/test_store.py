"""The influence store on a local directory and in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from dist_attr.config import RunConfig, StoreConfig
from dist_attr.errors import SimulationError, StoreError
from dist_attr.store import (
    Manifest,
    MeasuredFidelity,
    ModelIdentity,
    Place,
    SourceRecord,
    Space,
    StoreWriter,
    copy_store,
    open_store,
    record_fidelity,
)
from dist_attr.store.manifest import checksum_of

SIZE = 1_500_000  # more than one chunk


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "identity": "one",
        "created": "2026-01-01T00:00:00+00:00",
        "complete": False,
        "model": None,
        "space": Space(names=("weight",), shapes=((3, 500_000),), coverage=1.0),
        "encoding": StoreConfig(codec="float32"),
        "sources": 3,
        "sources_checksum": None,
        "corpus": "c" * 64,
        "computes": "e" * 64,
        "run": RunConfig(),
        "versions": {"dist_attr": "0"},
    }
    return Manifest(**{**values, **changes})


IDENTITY = ModelIdentity(type="gpt2", weights="a" * 64, tokenizer="b" * 64)
RECORDS = tuple(
    SourceRecord(name=name, documents=1, tokens=2, trained_tokens=2, first_step=0, last_step=1, examples=("d1",))
    for name in ("ant", "bee", "cat")
)


def tangents() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((3, SIZE)).astype(np.float32)


def finished(url: str) -> NDArray[np.float32]:
    values = tangents()
    StoreWriter.create(url, manifest(), RECORDS)
    for source in (2, 0, 1):
        # Each row by a writer of its own, as different actors have.
        StoreWriter(url).write(source, values[source], 7)
    StoreWriter(url).finish(IDENTITY)
    return values


@pytest.mark.parametrize("place", ["path", "file", "memory"])
def test_round_trip(place: str, tmp_path: Path) -> None:
    url = {"path": f"{tmp_path}/a.zarr", "file": f"file://{tmp_path}/a.zarr", "memory": "memory://round/a.zarr"}[place]
    values = finished(url)
    store = open_store(url)
    assert store.sources == ["ant", "bee", "cat"]
    assert np.array_equal(store.tangents(), values)
    assert np.array_equal(store.tangents([2, 0]), values[[2, 0]])
    assert store.manifest.complete and store.manifest.model == IDENTITY
    assert 0 < store.stored_bytes < 1.1 * values.nbytes


def test_plain_zarr_reads_it(tmp_path: Path) -> None:
    values = finished(f"{tmp_path}/a.zarr")
    group = zarr.open_group(f"{tmp_path}/a.zarr", mode="r")
    array = group["tangents"]
    assert isinstance(array, zarr.Array)
    assert array.chunks == (1, 2**18) and array.shards == (1, 6 * 2**18)
    assert np.array_equal(np.asarray(array[1]), values[1])
    assert json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]["dist_attr"]["complete"] is True


def test_a_flipped_byte_is_found_and_never_handed_out(tmp_path: Path) -> None:
    values = finished(f"{tmp_path}/a.zarr")
    chunk = tmp_path / "a.zarr" / "tangents" / "c" / "1" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(bytes(data))
    store = open_store(f"{tmp_path}/a.zarr")
    with pytest.raises(StoreError, match="source 'bee' is damaged"):
        store.tangents()
    # Of a span every chunk is checked by itself: this is the third of six.
    with pytest.raises(StoreError, match="source 'bee' is damaged"):
        store.tangents([1], span=slice(SIZE // 2, SIZE // 2 + 9))
    assert np.array_equal(store.tangents([1], span=slice(0, 9)), values[[1], :9])
    assert np.array_equal(store.tangents([0, 2]), values[[0, 2]])


def test_a_lost_chunk_is_found(tmp_path: Path) -> None:
    finished(f"{tmp_path}/a.zarr")
    (tmp_path / "a.zarr" / "tangents" / "c" / "0" / "0").unlink()
    with pytest.raises(StoreError, match="source 'ant' is damaged"):
        open_store(f"{tmp_path}/a.zarr").tangents()


def test_an_unfinished_store_says_what_is_missing(tmp_path: Path) -> None:
    writer = StoreWriter.create(f"{tmp_path}/a.zarr", manifest(), RECORDS)
    writer.write(1, tangents()[1], 7)
    with pytest.raises(StoreError, match="missing: ant, cat"):
        open_store(f"{tmp_path}/a.zarr")
    with pytest.raises(StoreError, match="not written: ant, cat"):
        writer.finish(IDENTITY)


def test_all_rows_but_no_model_is_unfinished(tmp_path: Path) -> None:
    writer = StoreWriter.create(f"{tmp_path}/a.zarr", manifest(), RECORDS)
    for source, row in enumerate(tangents()):
        writer.write(source, row, 7)
    with pytest.raises(StoreError, match="not finished"):
        open_store(f"{tmp_path}/a.zarr")


def test_a_diverged_tangent_is_not_written(tmp_path: Path) -> None:
    writer = StoreWriter.create(f"{tmp_path}/a.zarr", manifest(), RECORDS)
    row = tangents()[0]
    row[3] = np.inf
    with pytest.raises(SimulationError, match="source 'ant' diverged"):
        writer.write(0, row, 7)
    with pytest.raises(StoreError, match="missing: ant, bee, cat"):
        open_store(f"{tmp_path}/a.zarr")


def test_a_failed_source_does_not_lose_the_others(tmp_path: Path) -> None:
    url, values = f"{tmp_path}/a.zarr", tangents()
    writer = StoreWriter.create(url, manifest(), RECORDS)
    writer.write(0, values[0], 7)
    writer.write(2, values[2], 7)
    with pytest.raises(StoreError, match="not written: bee"):
        writer.finish(IDENTITY)
    with pytest.raises(SimulationError, match="every source failed"):
        writer.finish(IDENTITY, {0: "it diverged", 1: "it diverged", 2: "it diverged"})
    writer.finish(IDENTITY, {1: "it diverged"})
    store = open_store(url)
    assert store.sources == ["ant", "cat"]
    assert np.array_equal(store.tangents(), values[[0, 2]])
    assert np.array_equal(store.tangents([1]), values[[2]])
    assert [record.failed for record in store.records] == [None, "it diverged", None]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    finished(f"{tmp_path}/a.zarr")
    with pytest.raises(StoreError, match="something at"):
        StoreWriter.create(f"{tmp_path}/a.zarr", manifest(), RECORDS)


def test_another_model_or_tokenizer_is_an_error(tmp_path: Path) -> None:
    finished(f"{tmp_path}/a.zarr")
    store = open_store(f"{tmp_path}/a.zarr")
    store.check_model(IDENTITY.weights, IDENTITY.tokenizer)
    with pytest.raises(StoreError, match="another model"):
        store.check_model("x" * 64, IDENTITY.tokenizer)
    with pytest.raises(StoreError, match="another tokenizer"):
        store.check_model(IDENTITY.weights, "x" * 64)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no influence store at"):
        open_store(f"{tmp_path}/nothing.zarr")
    zarr.create_group(f"{tmp_path}/other.zarr")
    with pytest.raises(StoreError, match="no manifest"):
        open_store(f"{tmp_path}/other.zarr")
    finished(f"{tmp_path}/run/influence.zarr")
    with pytest.raises(StoreError, match=r"did you mean .*/run/influence.zarr"):
        open_store(f"{tmp_path}/run")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("format_version", 99, "format version 99"), ("sources", 2, "damaged"), ("corpus", None, "manifest .* damaged")],
)
def test_a_manifest_that_does_not_fit_is_refused(key: str, value: Any, message: str, tmp_path: Path) -> None:
    finished(f"{tmp_path}/a.zarr")
    file = tmp_path / "a.zarr" / "zarr.json"
    metadata = json.loads(file.read_text())
    attributes = metadata["attributes"]
    attributes["dist_attr"][key] = value
    attributes["dist_attr_sha256"] = checksum_of(attributes["dist_attr"])
    file.write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match=message):
        open_store(f"{tmp_path}/a.zarr")


def test_measured_fidelity_stays_with_the_very_same_tangents(tmp_path: Path) -> None:
    finished(f"{tmp_path}/a.zarr")
    store = open_store(f"{tmp_path}/a.zarr")
    assert store.manifest.fidelity == ()
    found = MeasuredFidelity(
        truth="this run", readout="linear", dropped=2, retrained=40, queries=48, correlation=0.97, interval=(0.95, 0.98)
    )
    assert record_fidelity(store, [found]).manifest.fidelity == (found,)
    store = open_store(f"{tmp_path}/a.zarr")
    copy_store(store, Place(f"{tmp_path}/same.zarr"))
    assert open_store(f"{tmp_path}/same.zarr").manifest.fidelity == (found,)
    copy_store(store, Place(f"{tmp_path}/int4.zarr"), encoding=StoreConfig(codec="int4"))
    copy_store(store, Place(f"{tmp_path}/two.zarr"), sources=["ant", "bee"])
    for other in ("int4", "two"):
        assert open_store(f"{tmp_path}/{other}.zarr").manifest.fidelity == ()
