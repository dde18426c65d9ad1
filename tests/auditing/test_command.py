"""`dist-attr audit` as a user types it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

import dist_attr as da
from dist_attr.auditing import read_audit
from dist_attr.cli import app
from dist_attr.errors import ConfigError, StoreError
from dist_attr.store import MeasuredFidelity, record_fidelity
from tests.auditing.conftest import QUERIES, SOURCES
from tests.stores import make_store

pytestmark = pytest.mark.usefixtures("cluster")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["audit", *arguments])


def test_an_audit_is_made_shown_and_made_again_by_its_own_command(folder: Path, tmp_path: Path) -> None:
    make_store(tmp_path, SOURCES, context=48)
    measured = MeasuredFidelity(
        truth="this run",
        readout="linear",
        dropped=1,
        retrained=4,
        queries=8,
        correlation=0.8,
        interval=(0.6, 0.9),
        slope=1.1,
    )
    record_fidelity(da.open_store(f"{tmp_path}/influence.zarr"), [measured])
    asked = [f"{tmp_path}/influence.zarr", "--queries", f"{folder}/queries.jsonl", "--out", f"{tmp_path}/out"]
    result = invoke(*asked, "--resamples", "200", "--workers", "1")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert all(source in said for source in SOURCES) and f"{tmp_path}/out/report.html" in said
    assert f"{QUERIES} answers, linear readout; [95 % intervals] for other answers and the fidelity" in said
    assert "rank correlation with 4 retrained models 0.80 [0.60, 0.90]" in said
    assert "note: The documents were not to be had" in said
    assert "ETA" in result.stderr
    found = read_audit(f"{tmp_path}/out")
    assert found.covered == measured and found.duplicates is None and found.duplicates_refused is not None
    for share in found.table("net effect").sources:
        assert share.fidelity_low is not None and share.low is not None and share.value is not None
        assert share.fidelity_low <= share.value
    words = shlex.split(found.command)
    assert words[:2] == ["dist-attr", "audit"] and "--readout" not in words
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out/scores").rglob("*.parquet")}
    again = invoke(*words[2:], "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["tables"] == json.loads(found.model_dump_json())["tables"]
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "out/scores").rglob("*.parquet")}
    assert pq.read_table(tmp_path / "out/shares.parquet").num_rows == 2 * 4 * len(SOURCES)


def test_what_does_not_go_together_is_refused(folder: Path, tmp_path: Path) -> None:
    asked = [f"{folder}/influence.zarr", "--queries", f"{folder}/queries.jsonl", "--out", f"{tmp_path}/out"]
    for options, said in (
        (["--rank", "2", "--readout", "counterfactual"], "a basis gives linear scores"),
        (["--precision", "bf16", "--readout", "counterfactual"], "drown in bfloat16"),
        (["--shapley", "5", "--precision", "bf16"], "need the sources' own tangents in fp32"),
        (["--shapley", "5"], "Shapley values of 4 sources need 7 sets"),
        (["--out", "memory://audit"], "belongs to one process"),
    ):
        result = invoke(*asked, *options)
        assert isinstance(result.exception, ConfigError) and said in str(result.exception)
    no_basis = invoke(*asked, "--rank", "2")
    assert isinstance(no_basis.exception, StoreError) and "has no readout basis" in str(no_basis.exception)
    assert not (tmp_path / "out").exists()
