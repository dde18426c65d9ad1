"""A Ray cluster of two nodes as an operator starts it, with `ray start`; nothing of it is in the test's own process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.s3_server import free_ports

ROOT = Path(__file__).parent.parent
# Otherwise a token that somebody made on this machine once would be asked for.
WITHOUT_TOKEN = {"RAY_AUTH_MODE": "disabled"}


class Nodes:
    """A head, and a second node that joined it.

    Args:
        environment: variables of both nodes, and so of what runs on them.
        cpus: of each node.

    Attributes:
        dashboard: http:// address at which jobs are taken.
        gcs: HOST:PORT of the cluster.
    """

    def __init__(self, environment: dict[str, str], cpus: int = 1) -> None:
        gcs, dashboard = free_ports(2)
        self.gcs = f"127.0.0.1:{gcs}"
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        folder = Path(sys.executable).parent
        self._environment = {
            **os.environ,
            **WITHOUT_TOKEN,
            **environment,
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        # A job finds its cluster by a file in this folder: in Ray's usual one it would find whichever started last.
        self._folder = tempfile.mkdtemp(prefix="nodes-", dir="/tmp")  # short, for it holds sockets
        try:
            self._start(
                "--head",
                f"--port={gcs}",
                f"--dashboard-port={dashboard}",
                f"--num-cpus={cpus}",
                f"--temp-dir={self._folder}",
            )
            self._until_nodes(1)
            self._start(f"--address={self.gcs}", f"--num-cpus={cpus}")
            self._until_nodes(2)
        except BaseException:
            self.close()
            raise

    def _start(self, *options: str) -> None:
        # Other clusters of this machine have the ports that a node would take by itself.
        agent, runtime_env, metrics = free_ports(3)
        ports = [
            f"--dashboard-agent-listen-port={agent}",
            f"--runtime-env-agent-port={runtime_env}",
            f"--metrics-export-port={metrics}",
        ]
        ray = str(Path(sys.executable).parent / "ray")
        command = [ray, "start", "--block", "--node-ip-address=127.0.0.1", *ports, *options]
        # A session of its own, so that the node can be ended with all that it started.
        self._processes.append(
            subprocess.Popen(command, env=self._environment, start_new_session=True, stdout=subprocess.DEVNULL)
        )

    def _until_nodes(self, number: int, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert all(process.poll() is None for process in self._processes), "a node has ended"
            try:
                found = httpx.get(f"{self.dashboard}/nodes?view=summary", timeout=5).json()["data"]["summary"]
            except (httpx.HTTPError, KeyError, ValueError):
                found = []
            if sum(node["raylet"].get("state") == "ALIVE" for node in found) >= number:
                return
            time.sleep(0.5)
        raise AssertionError(f"no {number} nodes within {seconds:.0f} s")

    def close(self) -> None:
        """End both nodes with all their processes."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)
