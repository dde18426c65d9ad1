"""A small disk of its own that can be filled."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


class Disk:
    """Mounted when it is made, which takes the rights to do so; else the test is skipped.

    Attributes:
        folder: where it is; a short name, since Ray puts sockets there.
    """

    def __init__(self, mebibytes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="disk"))
        command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self.folder.rmdir()
            pytest.skip(f"a disk that can be filled has to be mounted, and may not be: {done.stderr.strip()}")

    def fill(self) -> None:
        """To the last byte."""
        with (self.folder / "filling").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(b"\0" * 2**16)

    def make_room(self) -> None:
        """What `fill` took is free again."""
        (self.folder / "filling").unlink()

    def close(self) -> None:
        """It is gone, whoever still has it open."""
        subprocess.run(["umount", "--lazy", self.folder], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)
