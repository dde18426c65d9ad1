"""A head that is lost where Ray keeps what it knows in Redis: another one takes its place, and all goes on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.commands import Command
from tests.faults.test_serve import answers, assert_none_wrong, load
from tests.faults.test_serve import place as place
from tests.faults.test_serve import port as port
from tests.faults.test_serve import right as right
from tests.faults.test_simulate import assert_same, run_command, steps
from tests.faults.test_simulate import simulated as simulated
from tests.faults.test_simulate import under_way as run_under_way
from tests.nodes import Nodes
from tests.s3_server import S3Server, free_ports

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """Address of a real Redis server that keeps everything in a folder of the test."""
    if (program := shutil.which("redis-server")) is None:
        pytest.skip("there is no redis-server on this machine")
    if subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], check=False).returncode:
        pytest.skip("a head of a PID namespace of its own takes the rights to make one")
    (port,) = free_ports(1)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    yield f"127.0.0.1:{port}"
    server.kill()
    server.wait()


@pytest.fixture
def lasting(redis: str, mortal: S3Server) -> Iterator[Nodes]:
    """A head without work, and a node with the shards; both find each other again through Redis."""
    nodes = Nodes({**mortal.environment, "OMP_NUM_THREADS": "1"}, cpus=2, redis=redis)
    yield nodes
    nodes.close()


def test_a_service_outlives_the_head(
    lasting: Nodes, material: str, place: str, port: int, right: dict[str, Any], tmp_path: Path
) -> None:
    words = ["serve", f"{material}/influence.zarr", "--shards", "2", "--port", str(port), "--no-surge"]

    def started() -> Command:
        command = Command(lasting, tmp_path, *words)
        command.until(lambda: "Ctrl-C stops" in command.err and answers(place), "an answer")
        return command

    command = started()
    shards = lasting.actors("ReadoutShard")
    with load(place, right) as asked:
        asked.answered(20)
        lasting.kill_head()
        lasting.restart_head()
        asked.answered(20)
    assert_none_wrong(asked)
    assert lasting.actors("ReadoutShard") == shards, "shards were loaded again"
    command.kill()  # it has lost its cluster, and would wait for it for ever
    again = started()
    again.interrupt()
    assert again.ended() == 0
    assert not answers(place)


def test_a_run_outlives_the_head(lasting: Nodes, material: str, simulated: str, tmp_path: Path) -> None:
    output = f"{material}/run-redis"
    command = run_command(lasting, tmp_path, material, output)
    run_under_way(command)
    lasting.kill_head()
    lasting.restart_head()
    command.succeeded()
    assert steps(command) == sorted(set(steps(command))), "something was computed twice"
    assert_same(output, simulated)
