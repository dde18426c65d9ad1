"""A store with its documents, queries to audit it with, and a Ray cluster for the audits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from dist_attr.corpus import Document
from tests.s3_server import S3Server
from tests.stores import make_store

SOURCES = ["ant", "bee", "cow & calf", "dog"]
WORDS = ["state", "union", "fear", "peace", "war", "people", "house", "law", "money", "labor"]
QUERIES = 30


@pytest.fixture(scope="package")  # a process has one Ray at a time, and other packages' tests start their own
def cluster(s3: S3Server) -> Iterator[str]:
    """The address of a cluster that finds the S3 server, with more CPUs than this machine may have: actors are tiny."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**s3.environment, "RAY_worker_niceness": "0"}.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=40)
        yield str(ray.get_runtime_context().gcs_address)
        ray.shutdown()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`influence.zarr` of four sources, two of which share a document, and `queries.jsonl`."""
    folder, draw = tmp_path_factory.mktemp("audit"), np.random.default_rng(0)
    documents = [
        Document(f"{source}-{n}", " ".join(draw.choice(WORDS, 12 + n)), source, {})
        for source in SOURCES
        for n in range(3)
    ]
    documents.append(Document("bee-copy", documents[1].text.upper(), "bee", {}))
    make_store(folder, SOURCES, context=48, documents=documents)
    rows = []
    for n in range(QUERIES):
        words = draw.choice(WORDS, 3)
        row = {
            "prompt": f"the {words[0]}",
            "completion": f" of {' '.join(words[1 : 2 + n % 2])} {n}",
            "weight": 1 + n % 3,
        }
        if n % 5:
            row["group"] = f"talk/{n % 2}"
        if n == 3:
            row["baseline"] = " or not"
        if n % 4 == 0:
            row["id"] = n
        rows.append(row)
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder
