"""Throughput of audits: the steady state is reckoned rightly, and the script runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.audit_speed import steady
from scripts.report import Report
from tests.stores import make_store


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_steady_state_is_what_workers_do_while_all_are_busy(workers: int) -> None:
    """Workers that lose a fifth of an engine's speed, start late, and end with parts of different lengths."""
    seconds = [2.0 - 0.01 * n for n in range(120)]
    free, finished = [30.0 + worker for worker in range(workers)], []
    for own in seconds:
        first = free.index(min(free))
        free[first] += own / 0.8
        finished.append((free[first], own))
    assert steady(sorted(finished), workers) == pytest.approx(0.8 * workers, rel=0.04)


def script(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-m", "scripts.audit_speed", "--queries", "64", "--part", "4", "--rounds", "1", *options],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**environment, "RAY_worker_niceness": "0"},
    )


def test_the_script_compares_audits_with_engines(tmp_path: Path) -> None:
    out, store = tmp_path / "a.json", make_store(tmp_path, ["ant", "bee", "cow"], context=48)
    done = script("--store", store.url, "--workers", "2", "--json", str(out))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = Report.model_validate_json(out.read_text())
    fast, before = report.tables["steady"], report.tables["before"]
    assert [row[0] for row in fast.rows] == [row[0] for row in before.rows] == ["1", "2"]
    for _, engines, audit, ratio, *_ in fast.rows:
        assert float(ratio) == pytest.approx(float(audit) / float(engines), abs=0.01)  # all three are rounded
    for _, ray, start, loading, whole in before.rows:
        assert min(map(float, (ray, start, loading))) > 0 and float(start) < float(whole)


def test_too_few_queries_for_a_steady_state_are_refused() -> None:
    few = script("--workers", "4")
    assert few.returncode == 1 and "take 128 --queries or more" in few.stderr
