"""Shared fixtures: small real models and the batches they are trained on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.disk import Disk
from tests.s3_server import S3Server

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server; it is found by its own options or environment only."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def disk() -> Iterator[Disk]:
    """An empty disk of 48 MiB."""
    disk = Disk(48)
    yield disk
    disk.close()
