"""Audits of which something fails: no part that was read out is read out again, and the result is the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_attr.auditing import read_audit, read_scores
from tests.disk import Disk
from tests.faults.commands import OUTAGE, Command, assert_kept, down, objects
from tests.faults.conftest import QUERIES, audit_command
from tests.nodes import Nodes
from tests.s3_server import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.faults]
Start = Callable[[], Command]


@pytest.fixture
def out(material: str, request: pytest.FixtureRequest) -> str:
    """Where a test has its audit."""
    return f"{material}/{request.node.name.replace('[', '-').rstrip(']')}"


@pytest.fixture
def start(nodes: Nodes, material: str, out: str, tmp_path: Path) -> Start:
    """Starts the test's audit; the second time it is the same command."""
    return lambda: audit_command(nodes, tmp_path, material, out)


def parts(s3: S3Server, out: str) -> dict[str, tuple[Any, Any]]:
    return objects(s3, f"{out}/scores")


def under_way(command: Command, s3: S3Server, out: str) -> dict[str, tuple[Any, Any]]:
    """Waits until some parts are there; those."""
    command.until(lambda: len(parts(s3, out)) >= 10, "ten parts")
    found = parts(s3, out)
    assert len(found) < QUERIES, "it was done before it was disturbed"
    return found


def assert_same(out: str, audited: str) -> None:
    """Scores, bit for bit, and all figures."""
    one, other = (read_scores(url).sort_by("id") for url in (out, audited))
    assert one.equals(other)
    assert read_audit(out).tables == read_audit(audited).tables


def test_a_node_that_is_killed_costs_time(start: Start, nodes: Nodes, mortal: S3Server, out: str, audited: str) -> None:
    command = start()
    before = under_way(command, mortal, out)
    nodes.kill()
    command.succeeded()  # on the node that is left
    assert_kept(before, parts(mortal, out))
    assert_same(out, audited)


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "gone"])
def test_s3_that_is_down_for_half_a_minute_costs_time(
    start: Start, mortal: S3Server, out: str, audited: str, silent: bool
) -> None:
    command = start()
    before = under_way(command, mortal, out)
    with down(mortal, silent=silent):
        time.sleep(OUTAGE)
        assert command.running, command.err
    command.succeeded()
    assert_kept(before, parts(mortal, out))
    assert_same(out, audited)


def test_a_driver_that_is_killed_is_started_again(start: Start, mortal: S3Server, out: str, audited: str) -> None:
    command = start()
    under_way(command, mortal, out)
    command.kill()
    time.sleep(3)  # a worker may finish what it has
    before = parts(mortal, out)
    start().succeeded()
    assert_kept(before, parts(mortal, out))
    assert_same(out, audited)


def test_a_head_that_is_lost_ends_it_and_the_next_cluster_goes_on(
    start: Start, nodes: Nodes, mortal: S3Server, out: str, audited: str
) -> None:
    command = start()
    under_way(command, mortal, out)
    nodes.kill_head()
    assert command.ended() != 0
    before = parts(mortal, out)
    nodes.start_head()
    nodes.add()
    start().succeeded()
    assert_kept(before, parts(mortal, out))
    assert_same(out, audited)


def test_a_node_with_a_full_disk_leaves_the_work_to_the_other(
    start: Start, mortal: S3Server, cramped: Disk, out: str, audited: str
) -> None:
    cramped.fill()
    command = start()
    before = under_way(command, mortal, out)
    cramped.make_room()
    command.succeeded()
    assert_kept(before, parts(mortal, out))
    assert_same(out, audited)


def test_a_folder_that_is_full_says_so(nodes: Nodes, material: str, disk: Disk, tmp_path: Path, audited: str) -> None:
    out = str(disk.folder / "out")

    def files() -> dict[Path, tuple[int, int]]:
        return {
            file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in disk.folder.glob("out/scores/*/*.parquet")
        }

    command = audit_command(nodes, tmp_path, material, out)
    command.until(lambda: len(files()) >= 10, "ten parts")
    disk.fill()
    said = command.failed()
    before = files()
    assert before
    assert "no room for" in said and out in said
    disk.make_room()
    audit_command(nodes, tmp_path, material, out).succeeded()
    after = files()
    assert {file: after.get(file) for file in before} == before
    assert_same(out, audited)
