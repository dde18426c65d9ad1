"""Commands of `dist-attr` as users type them, as drivers of a real cluster that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.nodes import ROOT, Nodes
from tests.s3_server import S3Server

OUTAGE = 30  # seconds
PATIENCE = 200  # seconds for a command to end, faults included


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait for something; an AssertionError if it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not {what} within {seconds:.0f} s"
        time.sleep(0.05)


class Command:
    """A command that is running.

    Args:
        nodes: the cluster that it is sent to.
        folder: for what it prints.
        words: of the command line, after `dist-attr`.
    """

    def __init__(self, nodes: Nodes, folder: Path, *words: str) -> None:
        self._files = [folder / f"{uuid4().hex}.{name}" for name in ("out", "err")]
        environment = {**nodes.environment, "RAY_ADDRESS": nodes.gcs, "COLUMNS": "200"}
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            command = [sys.executable, "-m", "dist_attr", *words]
            self._process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def out(self) -> str:
        """What it has printed."""
        return self._files[0].read_text()

    @property
    def err(self) -> str:
        """What it has said beside that."""
        return self._files[1].read_text()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something that has to come while it runs."""

        def there() -> bool:
            return condition() or not self.running

        until(there, what)
        assert self.running, f"ended before {what}: {self.err}"

    def ended(self, seconds: float = PATIENCE) -> int:
        """Its exit code, once it has ended."""
        return self._process.wait(seconds)

    def succeeded(self) -> str:
        """What it printed, once it has ended well."""
        assert self.ended() == 0, self.err
        return self.out

    def failed(self) -> str:
        """The error that it ended with: one addressed to the user."""
        assert self.ended() == 1, self.err
        assert "Traceback" not in self.err, self.err
        return self.err.rpartition("error: ")[2]

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Signal 9 to it and to all that it started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def objects(s3: S3Server, url: str) -> dict[str, tuple[Any, Any]]:
    """What lies below a URL, each with its checksum and when it was written: one that is written again has another."""
    found = s3.files().find(url, detail=True)
    return {name: (facts["ETag"], facts["LastModified"]) for name, facts in found.items()}


def assert_kept(before: dict[str, tuple[Any, Any]], after: dict[str, tuple[Any, Any]]) -> None:
    """Nothing that was there is gone or was written again."""
    assert before, "nothing was finished when it was disturbed"
    assert {name: after.get(name) for name in before} == before


@contextmanager
def down(server: S3Server, *, silent: bool) -> Iterator[None]:
    """An S3 server that takes connections and answers none, or is not there at all, for the time of the block."""
    if silent:
        server.pause()
    else:
        server.kill()
    try:
        yield
    finally:
        if silent:
            server.go_on()
        else:
            server.start()
