"""Two nodes and an S3 server of their own, which tests kill and which are whole again for the next one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from dist_attr.corpus import Document
from tests.disk import Disk
from tests.faults.commands import Command, until
from tests.nodes import Nodes
from tests.s3_server import S3Server
from tests.stores import make_store

SOURCES = ["ant", "bee", "cat", "dog"]
WORDS = ["state", "union", "fear", "peace", "war", "people", "house", "law", "money", "labor"]
QUERIES = 120


@pytest.fixture(scope="package")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server of these tests alone."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="package", autouse=True)
def reaches_s3(mortal: S3Server) -> Iterator[None]:
    """For what the tests themselves read of the results."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in mortal.environment.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="package")
def cluster(mortal: S3Server) -> Iterator[Nodes]:
    """A CPU on each node, so that two actors are on two nodes."""
    nodes = Nodes({**mortal.environment, "OMP_NUM_THREADS": "1"})
    yield nodes
    nodes.close()


def whole(cluster: Nodes) -> Nodes:
    """The cluster, made whole again after the tests before."""
    if cluster.headless:
        cluster.start_head()
    while cluster.number < 2:
        cluster.add()
    while cluster.number > 2:
        cluster.kill()
    cluster.until_alive(2)
    return cluster


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """A head and a second node, whatever happened before."""
    return whole(cluster)


@pytest.fixture
def cramped(nodes: Nodes, disk: Disk) -> Iterator[Disk]:
    """The disk that the second node has its temporary files on."""
    nodes.kill()
    nodes.add(disk.folder)
    until((disk.folder / "ray" / "ray_current_cluster").exists, "started")  # the last thing that `ray start` writes
    yield disk
    nodes.kill()


@pytest.fixture(scope="package")
def material(mortal: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a folder with a store, its model, its documents, and queries to audit it with."""
    folder, draw = tmp_path_factory.mktemp("material"), np.random.default_rng(0)
    documents = [
        Document(f"{source}-{n}", " ".join(draw.choice(WORDS, 24)), source, {}) for source in SOURCES for n in range(10)
    ]
    make_store(folder, SOURCES, context=48, documents=documents)
    rows = [
        {"prompt": f"the {draw.choice(WORDS)}", "completion": f" of {draw.choice(WORDS)} {n}", "group": f"g{n % 2}"}
        for n in range(QUERIES)
    ]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    url = f"s3://bucket-{uuid4().hex}"
    mortal.files().mkdir(url)
    for name in ("influence.zarr", "model", "queries.jsonl", "documents.jsonl"):
        mortal.files().put(f"{folder}/{name}", f"{url}/{name}", recursive=True)
    return url


def audit_command(nodes: Nodes, folder: Path, material: str, out: str) -> Command:
    """An audit, each answer a part of its own, so that there is time to disturb it."""
    words = [f"{material}/influence.zarr", "--queries", f"{material}/queries.jsonl", "--out", out]
    return Command(nodes, folder, "audit", *words, "--workers", "2", "--part", "1", "--resamples", "100")


@pytest.fixture(scope="package")
def audited(cluster: Nodes, material: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of an audit over both nodes that nothing happened to."""
    out, folder = f"{material}/undisturbed", tmp_path_factory.mktemp("undisturbed")
    command = audit_command(whole(cluster), folder, material, out)
    command.until(lambda: len(set(cluster.actors("PartReader").values())) == 2, "a worker on either node")
    command.succeeded()
    return out
