"""What the influence store does when its S3 server dies, falls silent, is not there, or refuses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_attr.errors import StoreError
from dist_attr.store import InfluenceStore, Place, StoreWriter, open_store, places
from tests.s3_server import S3Server
from tests.store.conftest import Proxied
from tests.store.test_s3 import SMALL, create, finished, rows
from tests.store.test_store import IDENTITY

SIZE = 4_500_001


def try_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ATTEMPTS", 2)
    monkeypatch.setitem(places.RETRIES, "max_retries", 1)
    monkeypatch.setitem(places.RETRIES, "retry_timeout", timedelta(seconds=2))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are given up soon."""
    try_twice(monkeypatch)
    monkeypatch.setattr(places, "SILENT_SECONDS", 0.5)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[S3Server]:
    """A server of one test, which may kill it."""
    server = S3Server(tmp_path)
    server.start()
    server.files().mkdir("bucket")
    yield server
    server.kill()


def kept_bytes(server: S3Server) -> int:
    """What the server has on disk of its objects."""
    return sum(file.stat().st_size for file in server.folder.rglob("*.dat"))


def kill_after(server: S3Server, arrived: int, writing: Future[None]) -> None:
    """Kill a server in the middle of a write, when so many bytes of it have arrived."""
    before = kept_bytes(server)
    while kept_bytes(server) - before < arrived:
        assert not writing.done(), writing.exception()
        time.sleep(0.01)
    server.kill()
    assert not writing.done(), "it was done before the server was killed"


def test_a_write_goes_on_when_the_server_is_killed_and_started_again(mortal: S3Server) -> None:
    url, values = "s3://bucket/a.zarr", rows(2, SIZE)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(finished, url, mortal.options, values)
        kill_after(mortal, 20 * 2**20, writing)
        time.sleep(1.5)
        mortal.start()
        writing.result()
    store = open_store(url, options=mortal.options)
    assert store.verify() == {}
    assert np.array_equal(store.tangents(), values)


def test_an_unfinished_store_says_what_is_missing_and_another_writer_finishes_it(
    mortal: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, values = "s3://bucket/a.zarr", rows(3, SIZE)
    create(url, mortal.options, 3, SIZE)
    try_twice(monkeypatch)
    first = StoreWriter(url, mortal.options)
    first.write(1, values[1], 7)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(first.write, 2, values[2], 7)
        kill_after(mortal, 2**20, writing)
        with pytest.raises(StoreError, match="cannot reach s3://bucket/a"):
            writing.result()
    with pytest.raises(StoreError, match="cannot reach s3://bucket/a"):
        open_store(url, options=mortal.options)
    monkeypatch.undo()
    mortal.start()
    with pytest.raises(StoreError, match=r"is not finished, these sources are missing: a, c$"):
        open_store(url, options=mortal.options)
    second = StoreWriter(url, mortal.options)
    for row in (0, 2):
        second.write(row, values[row], 7)
    second.finish(IDENTITY)
    store = open_store(url, options=mortal.options)
    assert store.verify() == {}
    assert np.array_equal(store.tangents(), values)


def reading(url: str, options: dict[str, Any]) -> InfluenceStore:
    return open_store(url, options=options)


def looking(url: str, options: dict[str, Any]) -> bool:
    return Place(url, options).exists()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("call", [reading, looking, StoreWriter])
def test_a_server_that_never_answers_is_a_clear_error(
    call: Callable[[str, dict[str, Any]], object], proxied: Proxied
) -> None:
    proxy, options = proxied()
    proxy.silent = True
    # It ends at all; how soon it does is up to the constants that `impatient` sets.
    with pytest.raises(StoreError, match="cannot reach s3://bucket/a"):
        call("s3://bucket/a.zarr", options)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_falls_silent_is_a_clear_error_and_no_damage(bucket: str, proxied: Proxied) -> None:
    proxy, options = proxied()
    finished(f"{bucket}/a.zarr", options, rows(1, SMALL))
    store = open_store(f"{bucket}/a.zarr", options=options)
    proxy.silent = True
    with pytest.raises(StoreError, match=f"cannot reach {bucket}/a.zarr: "):
        store.tangents()


SECRET = "this-never-shows-0123456789"
KEY_IS_WRONG, SECRET_IS_WRONG = {"key": "nobody", "secret": SECRET}, {"secret": SECRET}
NO_ACCESS = r"no access to {0}/a.zarr: .*; check the credentials \(environment, profile or role\)"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("call", [reading, looking, StoreWriter])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (SECRET_IS_WRONG, NO_ACCESS),
        (KEY_IS_WRONG, NO_ACCESS),
        ({"secret": SECRET, "endpoint_url": "http://127.0.0.1:9"}, r"cannot reach {0}/a.zarr: "),
        ({"secret": SECRET, "endpoint_url": "nonsense"}, r"cannot reach {0}/a.zarr: Invalid endpoint: nonsense"),
    ],
)
def test_what_does_not_let_us_in_is_a_clear_error_without_the_secret(
    call: Callable[[str, dict[str, Any]], object],
    changes: dict[str, str],
    message: str,
    s3: S3Server,
    bucket: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    # What botocore logs at this level is the request in all its parts, of which none is the secret.
    with pytest.raises(StoreError, match=message.format(bucket)) as caught:
        call(f"{bucket}/a.zarr", {**s3.options, **changes})
    assert SECRET not in "".join(map(repr, caplog.records)) + caplog.text
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r} {error.args}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("url", ["s3://no-such-bucket/a.zarr", "{0}/nothing.zarr"])
def test_a_missing_bucket_or_store_is_a_clear_error_and_is_not_made(url: str, s3: S3Server, bucket: str) -> None:
    url = url.format(bucket)
    with pytest.raises(StoreError, match=f"there is no influence store at {url}"):
        open_store(url, options=s3.options)
    with pytest.raises(StoreError, match=f"there is no influence store at {url}"):
        StoreWriter(url, s3.options)
    assert not Place(url, s3.options).exists()
    assert not s3.files().exists("s3://no-such-bucket")
    assert s3.files().find(bucket) == []


def test_the_secret_is_in_no_repr_no_log_and_no_object(
    s3: S3Server, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    finished(f"{bucket}/a.zarr", s3.options, rows(1, SMALL))
    store, files = open_store(f"{bucket}/a.zarr", options=s3.options), s3.files()
    store.tangents()
    told = f"{store!r} {store} {store.place!r} {store.place} {store.manifest!r} {store.records!r} {caplog.text}"
    objects = files.find(bucket)
    assert len(objects) >= 4
    secret = s3.options["secret"]
    assert secret not in told
    assert all(secret.encode() not in files.cat_file(name) for name in objects)
