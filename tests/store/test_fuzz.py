"""Hundreds of altered and damaged stores, each lot in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_nothing_outside_the_store_is_opened_and_nothing_unpickled(tmp_path: Path) -> None:
    """Every place of the manifest and of the arrays' metadata, with URLs, paths and what else there is."""
    command = [sys.executable, "-m", "tests.store.watched", str(tmp_path / "a.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert int(done.stdout.split()[0]) >= 500


def test_the_script_finds_all_damage(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    command = [sys.executable, "-m", "scripts.fuzz_store", "--corruptions", "300", "--seed", "7", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = json.loads(out.read_text(encoding="utf-8"))["tables"]["outcomes"]
    counted = [[int(cell) for cell in row[1:]] for row in table["rows"]]
    columns = dict(zip(table["columns"][1:], zip(*counted, strict=True), strict=True))
    assert {name for name, counts in columns.items() if sum(counts)} == {"opening", "reading", "verify", "harmless"}
