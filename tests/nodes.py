"""A Ray cluster of nodes as an operator starts it, with `ray start`; nothing of it is in the test's own process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil

from tests.s3_server import free_ports

ROOT = Path(__file__).parent.parent
# Otherwise a token that somebody made on this machine once would be asked for.
WITHOUT_TOKEN = {"RAY_AUTH_MODE": "disabled"}


class Nodes:
    """A head, and a second node that joined it; nodes can be killed and added.

    Args:
        environment: variables of all nodes, and so of what runs on them.
        cpus: of each node.
        redis: HOST:PORT of a Redis server where Ray keeps what it knows. A head that was lost can then be started
            again, and it has no CPUs, so that no work is lost with it.

    Attributes:
        dashboard: http:// address at which jobs are taken.
        gcs: HOST:PORT of the cluster.
        environment: of the nodes; what a driver beside them has to have too.
        headless: whether the head was killed and not started again.
    """

    def __init__(self, environment: Mapping[str, str], cpus: int = 1, redis: str | None = None) -> None:
        gcs, dashboard = free_ports(2)
        self.gcs = f"127.0.0.1:{gcs}"
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self._head_options = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}"]
        self._cpus, self._redis = cpus, redis
        folder = Path(sys.executable).parent
        self.environment = {
            **os.environ,
            **WITHOUT_TOKEN,
            **environment,
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            **({} if redis is None else {"RAY_REDIS_ADDRESS": redis, "RAY_external_storage_namespace": uuid4().hex}),
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self._folder: str | None = None
        try:
            self.start_head()
            self.add()
        except BaseException:
            self.close()
            raise

    def start_head(self) -> None:
        """The head of a new cluster, at the same addresses; nodes of the one before are ended."""
        self.close()
        self.headless = False
        # A job finds its cluster by a file in this folder: in Ray's usual one it would find whichever started last.
        self._folder = tempfile.mkdtemp(prefix="nodes-", dir="/tmp")  # short, for it holds sockets
        self._start(lambda: len(self._alive()) == 1, *self._head_options, f"--temp-dir={self._folder}")

    def restart_head(self) -> None:
        """A head that was killed is started again, where Ray keeps what it knows in Redis: the nodes are still its."""
        nodes, self._processes = self._processes, []
        try:
            self._start(lambda: bool(self._alive()), *self._head_options, f"--temp-dir={self._folder}")
        finally:
            self._processes += nodes
        self.headless = False

    def add(self, temporary: Path | None = None) -> None:
        """Another node joins; its temporary files, and those of what runs on it, are in a folder of its own if told."""
        own = [] if temporary is None else [f"--temp-dir={temporary}/ray"]
        before = self._alive()  # among them may be one that is dead, and not yet missed
        self._start(lambda: bool(self._alive() - before), f"--address={self.gcs}", *own, temporary=temporary)

    def kill(self) -> None:
        """End the youngest node with all its processes by signal 9."""
        _kill_session(self._processes.pop())

    def kill_head(self) -> None:
        """The same to the head; the other nodes are left to themselves."""
        self.headless = True
        _kill_session(self._processes.pop(0))

    def actors(self, kind: str) -> dict[int, str]:
        """Process id and node of each living actor of a class."""
        answer = httpx.get(f"{self.dashboard}/api/v0/actors?limit=1000&detail=true", timeout=10).json()
        found = [each for each in answer["data"]["result"]["result"] if kind in each["class_name"]]
        return {each["pid"]: each["node_id"] for each in found if each["state"] == "ALIVE"}

    @property
    def number(self) -> int:
        """How many nodes were started and not killed, the head among them."""
        return len(self._processes)

    def _start(self, there: Callable[[], bool], *options: str, temporary: Path | None = None) -> None:
        """Start a node until it is there: Ray gives itself 30 seconds for it, which a busy machine may not."""
        for _ in range(3):
            self._processes.append(self._started(options, temporary))
            self._until(lambda: self._processes[-1].poll() is not None or there(), "no other node")
            if self._processes[-1].poll() is None:
                return
            self.kill()
        raise AssertionError("a node has ended three times while it started")

    def _started(self, options: Sequence[str], temporary: Path | None) -> subprocess.Popen[bytes]:
        # Other clusters of this machine have the ports that a node would take by itself.
        agent, runtime_env, metrics = free_ports(3)
        ports = [
            f"--dashboard-agent-listen-port={agent}",
            f"--runtime-env-agent-port={runtime_env}",
            f"--metrics-export-port={metrics}",
        ]
        ray = str(Path(sys.executable).parent / "ray")
        command = [ray, "start", "--block", "--node-ip-address=127.0.0.1", *ports, *options]
        if self._redis is not None and "--head" in options:
            # Ray starts no head where it sees processes of the same cluster, which a machine with another node has.
            command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *command, "--num-cpus=0"]
        else:
            command.append(f"--num-cpus={self._cpus}")
        environment = self.environment if temporary is None else {**self.environment, "TMPDIR": str(temporary)}
        # A session of its own, so that the node can be ended with all that it started.
        return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)

    def until_alive(self, number: int) -> None:
        """Wait until the cluster has exactly so many nodes, those that were killed being missed."""
        self._until(lambda: len(self._alive()) == number, f"no {number} nodes")

    def _until(self, condition: Callable[[], bool], otherwise: str, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{otherwise} within {seconds:.0f} s"
            time.sleep(0.5)

    def _alive(self) -> set[str]:
        """Ids of the nodes that the head takes to be alive, as soon as it says it."""
        found: list[Any] = []

        def answered() -> bool:
            with suppress(httpx.HTTPError, KeyError, ValueError):
                found.append(httpx.get(f"{self.dashboard}/nodes?view=summary", timeout=5).json()["data"]["summary"])
            return bool(found)

        self._until(answered, "no answer from the head")
        return {node["raylet"]["nodeId"] for node in found[-1] if node["raylet"].get("state") == "ALIVE"}

    def close(self) -> None:
        """End all nodes with all their processes; none of them has anything to save."""
        while self._processes:
            self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _kill_session(leader: subprocess.Popen[bytes]) -> None:
    """Signal 9 to a process and to all that it started, in whatever process groups they are."""
    for process in psutil.process_iter():
        with suppress(OSError):
            if process.pid != leader.pid and os.getsid(process.pid) == leader.pid:
                os.kill(process.pid, signal.SIGKILL)
    leader.kill()
    leader.wait()
