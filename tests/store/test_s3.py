"""The influence store on a real S3 server: round trips, writers side by side, spans, slow answers, the local cache."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dist_attr.config import CodecName, StoreConfig
from dist_attr.errors import StoreError
from dist_attr.store import Codec, SourceRecord, Space, StoreWriter, open_store, places
from tests.s3_server import S3Server
from tests.store.conftest import Proxied
from tests.store.test_codecs import NAMES
from tests.store.test_store import IDENTITY, manifest

SMALL, LARGE = 70_001, 8_000_001  # of the large ones an object is sent in several parts
Rows = NDArray[np.float32]


def rows(number: int, size: int) -> Rows:
    draw = np.random.default_rng(number)
    return np.stack([draw.standard_normal(size, np.float32) * 10.0**row for row in range(number)])


def create(url: str, options: Mapping[str, Any], number: int, size: int, codec: CodecName = "float32") -> None:
    """An unfinished store; the sources are called a, b, c ..."""
    space = Space(names=("weight",), shapes=((size,),), coverage=1.0)
    records = [
        SourceRecord(name=name, documents=1, tokens=2, trained_tokens=2, first_step=0, last_step=1, examples=("d",))
        for name in "abcdefgh"[:number]
    ]
    made = manifest(space=space, encoding=StoreConfig(codec=codec), sources=number)
    StoreWriter.create(url, made, records, options=options)


def finished(url: str, options: Mapping[str, Any], values: Rows, codec: CodecName = "float32") -> None:
    create(url, options, len(values), values.shape[1], codec)
    writer = StoreWriter(url, options)
    for row, tangent in enumerate(values):
        writer.write(row, tangent, 7)
    writer.finish(IDENTITY)


@pytest.mark.parametrize("codec", NAMES)
def test_law_7_round_trip_is_within_its_bound_and_the_same_as_on_disk(
    codec: CodecName, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    values = rows(3, SMALL)
    finished(f"{bucket}/a.zarr", s3.options, values, codec)
    finished(f"{tmp_path}/a.zarr", {}, values, codec)
    store = open_store(f"{bucket}/a.zarr", options=s3.options)
    read = store.tangents()
    bound = Codec.of(StoreConfig(codec=codec)).bound
    for tangent, value in zip(read, values, strict=True):
        assert (np.abs(tangent - value) <= bound(value)).all()
    local = open_store(f"{tmp_path}/a.zarr")
    assert np.array_equal(read, local.tangents())
    assert store.records == local.records
    assert store.verify() == {}


@pytest.mark.parametrize("codec", NAMES)
def test_law_7_a_flipped_byte_of_an_object_is_found_and_other_rows_are_served(
    codec: CodecName, s3: S3Server, bucket: str
) -> None:
    finished(f"{bucket}/a.zarr", s3.options, rows(3, SMALL), codec)
    whole = open_store(f"{bucket}/a.zarr", options=s3.options).tangents()
    files, name = s3.files(), f"{bucket}/a.zarr/tangents/c/1/0"
    data = bytearray(files.cat_file(name))
    data[len(data) // 2] ^= 1
    files.pipe_file(name, bytes(data))
    store = open_store(f"{bucket}/a.zarr", options=s3.options)
    assert list(store.verify()) == ["b"]
    for span in (None, slice(1, SMALL - 1)):
        with pytest.raises(StoreError, match="source 'b' is damaged"):
            store.tangents(span=span)
    assert np.array_equal(store.tangents([0, 2]), whole[[0, 2]])


def test_law_7_a_lost_object_is_found_by_spans_too(s3: S3Server, bucket: str) -> None:
    finished(f"{bucket}/a.zarr", s3.options, rows(2, SMALL))
    s3.files().rm(f"{bucket}/a.zarr/tangents/c/1/0")
    store = open_store(f"{bucket}/a.zarr", options=s3.options)
    assert list(store.verify()) == ["b"]
    with pytest.raises(StoreError, match="source 'b' is damaged"):
        store.tangents(span=slice(5, 50))


def write_rows(url: str, options: dict[str, Any], which: list[int], together: Any) -> None:
    writer, values = StoreWriter(url, options), rows(6, SMALL)
    for row in which:
        together.wait(60)
        writer.write(row, values[row], 7)


def test_two_processes_write_at_the_same_time_and_never_the_same_object(
    s3: S3Server, bucket: str, proxied: Proxied
) -> None:
    url, values = f"{bucket}/a.zarr", rows(6, SMALL)
    create(url, s3.options, 6, SMALL, "int8")
    context = multiprocessing.get_context("spawn")
    together, halves, writers = context.Barrier(2), ([0, 2, 4], [1, 3, 5]), []
    proxies = [proxied(), proxied()]
    for (_, options), which in zip(proxies, halves, strict=True):
        writers.append(context.Process(target=write_rows, args=(url, options, which, together)))
        writers[-1].start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    one, other = ({path.partition("?")[0] for path in proxy.written if ".zarr/" in path} for proxy, _ in proxies)
    assert not one & other
    # A row's tangent, scales, step and checksum.
    assert len(one) == len(other) == 3 * 4
    StoreWriter(url, s3.options).finish(IDENTITY)
    local = Codec.of(StoreConfig(codec="int8"))
    read = open_store(url, options=s3.options).tangents()
    for tangent, value in zip(read, values, strict=True):
        local.decode(local.encode(value), decoded := np.empty(SMALL, np.float32))
        assert np.array_equal(tangent, decoded)


@pytest.mark.parametrize("codec", NAMES)
def test_a_large_row_goes_in_parts_and_a_span_of_it_fetches_few_bytes(
    codec: CodecName, bucket: str, proxied: Proxied
) -> None:
    proxy, options = proxied()
    finished(f"{bucket}/a.zarr", options, rows(1, LARGE), codec)
    assert any("uploadId=" in path for path in proxy.written) == (codec != "int4")  # of which a row has 4 MB
    store = open_store(f"{bucket}/a.zarr", options=options)
    proxy.reset()
    whole = store.tangents()
    of_the_row = proxy.sent
    proxy.reset()
    # What is compressed together has 2¹⁸ to 2²¹ numbers, what shares a scale 64, a byte of int4 two.
    spans = [slice(0, 1), slice(3_000_001, 3_000_002), slice(LARGE - 1, LARGE), slice(2**21 + 63, 2**21 + 1001)]
    for span in spans:
        assert np.array_equal(store.tangents([0], span=span), whole[:, span]), span
    # A chunk, and the chunk of the scales: 1.5 of 4.5 MB at most with int4.
    assert proxy.sent < len(spans) * 0.4 * of_the_row
    for span in (slice(2**18 - 1, 2**18 + 1), slice(2**21 - 65, 2**21 + 65), slice(4_194_303, LARGE - 1), slice(5, 5)):
        assert np.array_equal(store.tangents([0], span=span), whole[:, span]), span


def test_slow_answers_are_waited_for_as_long_as_bytes_come(
    bucket: str, proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "SILENT_SECONDS", 1.0)
    monkeypatch.setitem(places.RETRIES, "max_retries", 0)
    proxy, options = proxied()
    values = rows(1, 2**22)
    finished(f"{bucket}/a.zarr", options, values)
    store = open_store(f"{bucket}/a.zarr", options=options)
    proxy.delay = 0.01  # for each of at least 240 pieces of the only object: longer than silence is allowed to last
    assert np.array_equal(store.tangents(), values)


def test_several_rows_are_fetched_side_by_side(bucket: str, proxied: Proxied) -> None:
    proxy, options = proxied()
    values = rows(4, 1000)  # an object each
    finished(f"{bucket}/a.zarr", options, values)
    store = open_store(f"{bucket}/a.zarr", options=options)
    proxy.delay = 0.3
    for which, busiest in (([2], 1), ([0, 1, 2, 3], 4)):
        proxy.reset()
        assert np.array_equal(store.tangents(which), values[which])
        assert proxy.busiest == busiest


def test_the_cache_spares_what_was_read_and_notices_what_changed(
    s3: S3Server, bucket: str, proxied: Proxied, tmp_path: Path
) -> None:
    proxy, options = proxied()
    values = rows(2, 500_000)
    finished(f"{bucket}/a.zarr", s3.options, values)

    def read() -> Rows:
        proxy.reset()
        return open_store(f"{bucket}/a.zarr", options=options, cache=str(tmp_path / "cache")).tangents()

    assert np.array_equal(read(), values)
    assert proxy.sent > 0.8 * values.nbytes
    assert np.array_equal(read(), values)
    assert proxy.sent < 0.02 * values.nbytes
    files, name = s3.files(), f"{bucket}/a.zarr/tangents/c/1/0"
    data = files.cat_file(name)
    files.pipe_file(name, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StoreError, match="source 'b' is damaged"):
        read()
    files.pipe_file(name, data)
    assert np.array_equal(read(), values)
    assert 0.4 * values.nbytes < proxy.sent < 0.6 * values.nbytes  # the object that changed, and no other
