"""The one test of this folder that is not slow: an audit over two nodes, from S3 to S3."""

from __future__ import annotations

import numpy as np

import dist_attr as da
from dist_attr.auditing import read_audit, read_audit_queries, read_scores
from dist_attr.auditing.result import matrix
from tests.faults.conftest import QUERIES, SOURCES


def test_an_audit_over_two_nodes_has_the_scores_of_the_library(material: str, audited: str) -> None:
    queries = read_audit_queries(f"{material}/queries.jsonl")
    true = da.Attributor(da.open_store(f"{material}/influence.zarr")).attribute(queries)
    found = read_scores(audited)
    row = {name: i for i, name in enumerate(found["id"].to_pylist())}
    scores = found.take([row[query.name] for query in queries])["scores"]
    np.testing.assert_allclose(matrix(scores, len(SOURCES)), true.scores, atol=2e-5)
    assert read_audit(audited).number == len(found) == QUERIES
