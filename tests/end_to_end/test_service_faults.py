"""What happens to requests when something of the service dies, or is changed, while they are answered."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

import dist_attr as da
from dist_attr.config import ServiceConfig
from dist_attr.errors import StoreError
from dist_attr.serving import deploy, stop
from tests.end_to_end.conftest import free_port
from tests.readout.test_basis import queries
from tests.stores import make_store

NAMES = [f"s{n}" for n in range(6)]
QUERIES = queries(6, seed=4)


class Load:
    """Some clients that ask without a pause, and whether every answer is right.

    Args:
        place: URL of the service.
        right: scores (queries, sources) by the identity of the store.
        names: of the sources.
        patience: seconds to wait for answers.
    """

    def __init__(self, place: str, right: dict[str, Any], names: Sequence[str] = NAMES, patience: float = 90.0) -> None:
        self.counts: Counter[str] = Counter()
        self.stores: list[str] = []
        self._place, self._right, self._names, self._patience = place, right, list(names), patience
        self._done = threading.Event()

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(4)
        self._clients = [self._pool.submit(self._ask, number) for number in range(4)]
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for client in self._clients:
            client.result()

    def answered(self, more: int) -> None:
        """Waits until so many more are answered rightly."""
        goal, until = self.counts["right"] + more, time.monotonic() + self._patience
        while self.counts["right"] < goal:
            assert time.monotonic() < until, f"only {self.counts} by then"
            time.sleep(0.05)

    def _ask(self, number: int) -> None:
        with httpx.Client(timeout=90) as client:
            while not self._done.is_set():
                number = (number + 1) % len(QUERIES)
                body = QUERIES[number].model_dump()
                try:
                    answer = client.post(f"{self._place}/v1/attributions", json=body)
                except httpx.TransportError as error:
                    self.counts[f"lost: {error}"] += 1
                else:
                    self.counts[self._verdict(answer, number)] += 1

    def _verdict(self, answer: httpx.Response, number: int) -> str:
        if answer.status_code != 200:
            return f"{answer.status_code}: {answer.text}"
        found = answer.json()
        identity = found["store"]["identity"]
        self.stores.append(identity)
        scores = {source["source"]: source["score"] for source in found["results"][0]["sources"]}
        right = self._right[identity][number]
        same = set(scores) == set(self._names) and np.allclose(
            [scores[n] for n in self._names], right, rtol=1e-3, atol=1e-4
        )
        return "right" if same else "wrong"


def processes(name: str) -> list[int]:
    """Process ids of the actors of a class, on the cluster that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if name in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[da.InfluenceStore]:
    return [make_store(tmp_path_factory.mktemp("faults"), NAMES, context=48, seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def right(stores: list[da.InfluenceStore]) -> dict[str, Any]:
    return {store.manifest.identity: da.Attributor(store).attribute(QUERIES).scores for store in stores}


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def config(stores: list[da.InfluenceStore]) -> ServiceConfig:
    return ServiceConfig(store=stores[0].url, shards=2, cpus=0.5, ingresses=1)


@pytest.fixture(scope="module")
def place(cluster: None, config: ServiceConfig, port: int) -> Iterator[str]:
    deploy(config, port=port)
    yield f"http://127.0.0.1:{port}"
    stop()


def kill_one(name: str) -> Callable[[], None]:
    def kill() -> None:
        os.kill(processes(name)[0], signal.SIGKILL)

    return kill


def test_a_shard_that_dies_is_started_again_and_asked_again(place: str, right: dict[str, Any]) -> None:
    with Load(place, right) as load:
        load.answered(20)
        for _ in range(2):
            before = processes("ReadoutShard")
            kill_one("ReadoutShard")()
            load.answered(20)
            assert set(processes("ReadoutShard")) != set(before)
    assert set(load.counts) == {"right"}
    assert "dist_attr_shard_deaths_total" in httpx.get(f"{place}/metrics", timeout=30).text


def test_a_copy_that_dies_is_replaced_and_another_asked(place: str, right: dict[str, Any]) -> None:
    with Load(place, right) as load:
        load.answered(20)
        kill_one("ServeReplica:dist_attr:Readout")()
        load.answered(20)
    assert set(load.counts) == {"right"}


def test_an_ingress_that_dies_is_replaced(place: str, right: dict[str, Any]) -> None:
    with Load(place, right) as load:
        load.answered(20)
        kill_one("ServeReplica:dist_attr:Ingress")()
        load.answered(20)
    # What the dead process was answering is lost with it: the proxy says so, and a client asks again.
    lost = {said: number for said, number in load.counts.items() if said != "right"}
    assert all(said.startswith(("500", "503", "lost")) for said in lost) and sum(lost.values()) <= 4


def test_the_store_is_changed_without_a_pause(
    place: str, right: dict[str, Any], stores: list[da.InfluenceStore], config: ServiceConfig, port: int
) -> None:
    old, new = (store.manifest.identity for store in stores)
    with Load(place, right) as load:
        load.answered(10)
        deploy(config.model_copy(update={"store": stores[1].url}), port=port)
        load.answered(30)
    assert set(load.counts) == {"right"}
    assert set(load.stores) == {old, new} and load.stores[-1] == new
    with Load(place, right) as load:
        load.answered(10)
    assert set(load.stores) == {new}


def test_a_store_that_cannot_be_served_leaves_the_old_one(
    place: str,
    right: dict[str, Any],
    stores: list[da.InfluenceStore],
    config: ServiceConfig,
    port: int,
    tmp_path: Path,
) -> None:
    damaged = make_store(tmp_path, NAMES, context=48, seed=2)
    chunk = tmp_path / "influence.zarr" / "tangents" / "c" / "3" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(bytes(data))
    with Load(place, right) as load:
        load.answered(10)
        with pytest.raises(StoreError, match="source 's3' is damaged"):
            deploy(config.model_copy(update={"store": damaged.url}), port=port)
        load.answered(10)
    assert set(load.counts) == {"right"}


def test_more_than_can_be_answered_is_refused_and_what_was_let_in_is_answered(
    place: str, right: dict[str, Any], stores: list[da.InfluenceStore], config: ServiceConfig, port: int
) -> None:
    deploy(config.model_copy(update={"store": stores[0].url, "most_waiting": 8}), port=port)
    body = {"queries": [query.model_dump() for query in QUERIES]}
    with ThreadPoolExecutor(12) as pool, httpx.Client(timeout=90) as client:
        answers = list(pool.map(lambda _: client.post(f"{place}/v1/attributions", json=body), range(24)))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1 and "let in at once" in answer.json()["detail"]
        else:
            assert len(answer.json()["results"]) == len(QUERIES)


@pytest.mark.slow
def test_under_load_there_are_more_copies_and_every_answer_is_right(
    place: str, right: dict[str, Any], stores: list[da.InfluenceStore], config: ServiceConfig, port: int
) -> None:
    more = {"store": stores[0].url, "most_replicas": 2, "waiting_per_replica": 1}
    deploy(config.model_copy(update=more), port=port)
    end = time.monotonic() + 240
    with Load(place, right) as load:
        while len(set(processes("ReadoutShard"))) < 4:
            load.answered(1)
            assert time.monotonic() < end, "no copy was added"
        load.answered(50)
    assert set(load.counts) == {"right"}
