"""A service on two nodes of which something fails: no answer is wrong, and it answers again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import dist_attr as da
from tests.disk import Disk
from tests.end_to_end.conftest import free_port
from tests.end_to_end.test_service_faults import QUERIES, Load
from tests.faults.commands import OUTAGE, Command, down
from tests.faults.conftest import SOURCES
from tests.nodes import Nodes
from tests.s3_server import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.faults]
Start = Callable[[], Command]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def place(port: int) -> str:
    """Where a test's service answers."""
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def start(nodes: Nodes, material: str, port: int, tmp_path: Path) -> Iterator[Start]:
    """Starts the test's service; the second time it is the same command."""
    started: list[Command] = []

    def serve() -> Command:
        words = ["serve", f"{material}/influence.zarr", "--shards", "2", "--port", str(port), "--no-surge"]
        started.append(Command(nodes, tmp_path, *words))
        return started[-1]

    yield serve
    if started[-1].running:
        started[-1].interrupt()
        started[-1].ended()


@pytest.fixture(scope="module")
def right(material: str) -> dict[str, Any]:
    """Scores (queries, sources) by the identity of the store, from the library."""
    store = da.open_store(f"{material}/influence.zarr")
    return {store.manifest.identity: da.Attributor(store).attribute(QUERIES).scores}


def answers(place: str) -> bool:
    try:
        return httpx.get(f"{place}/v1/store", timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


def under_way(command: Command, place: str, nodes: Nodes) -> None:
    """Waits until it answers, with a shard on either node."""
    command.until(lambda: "Ctrl-C stops" in command.err and answers(place), "an answer")
    assert len(set(nodes.actors("ReadoutShard").values())) == 2


def load(place: str, right: dict[str, Any]) -> Load:
    return Load(place, right, SOURCES, patience=120)


def assert_none_wrong(found: Load) -> None:
    """Answers were right, or there was none, for the time being."""
    assert all(said == "right" or said.startswith(("500", "503", "504", "lost")) for said in found.counts), found.counts


def test_a_node_that_is_killed_is_waited_for(start: Start, nodes: Nodes, place: str, right: dict[str, Any]) -> None:
    under_way(start(), place, nodes)
    with load(place, right) as asked:
        asked.answered(20)
        nodes.kill()
        nodes.add()
        asked.answered(20)
    assert_none_wrong(asked)


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "gone"])
def test_s3_that_is_down_for_half_a_minute_is_not_noticed_unless_a_shard_dies(
    start: Start, nodes: Nodes, mortal: S3Server, place: str, right: dict[str, Any], silent: bool
) -> None:
    under_way(start(), place, nodes)
    with load(place, right) as asked:
        with down(mortal, silent=silent):
            until_then = time.monotonic() + OUTAGE / 2
            while time.monotonic() < until_then:
                asked.answered(5)
            assert set(asked.counts) == {"right"}
            shard = next(iter(nodes.actors("ReadoutShard")))
            os.kill(shard, signal.SIGKILL)
            time.sleep(OUTAGE / 2)
        asked.answered(20)
    assert_none_wrong(asked)
    assert shard not in nodes.actors("ReadoutShard")


def test_a_driver_that_is_killed_leaves_the_service(
    start: Start, nodes: Nodes, place: str, right: dict[str, Any]
) -> None:
    command = start()
    under_way(command, place, nodes)
    with load(place, right) as asked:
        asked.answered(20)
        command.kill()
        asked.answered(20)
        assert set(asked.counts) == {"right"}
        again = start()
        under_way(again, place, nodes)
        asked.answered(20)
    assert_none_wrong(asked)
    again.interrupt()
    assert again.ended() == 0
    assert not answers(place)


def test_a_head_that_is_lost_ends_it_and_the_next_cluster_serves(
    start: Start, nodes: Nodes, place: str, right: dict[str, Any]
) -> None:
    command = start()
    under_way(command, place, nodes)
    nodes.kill_head()
    assert command.ended() != 0
    nodes.start_head()
    nodes.add()
    under_way(start(), place, nodes)
    with load(place, right) as asked:
        asked.answered(20)
    assert set(asked.counts) == {"right"}


def test_a_node_with_a_full_disk_keeps_it_from_starting_and_not_from_answering(
    start: Start, nodes: Nodes, cramped: Disk, place: str, right: dict[str, Any]
) -> None:
    cramped.fill()
    said = start().failed()
    assert "could not be started" in said and "look at the nodes' memory and disks" in said
    cramped.make_room()
    under_way(start(), place, nodes)
    with load(place, right) as asked:
        cramped.fill()
        asked.answered(20)
        cramped.make_room()
        asked.answered(20)
    assert set(asked.counts) == {"right"}
