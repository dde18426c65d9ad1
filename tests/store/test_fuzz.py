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
    script = str(Path(__file__).parents[2] / "scripts" / "fuzz_store.py")
    command = [sys.executable, script, "--corruptions", "300", "--seed", "7", "--json", str(tmp_path / "a.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    outcomes = {outcome["outcome"] for outcome in json.loads((tmp_path / "a.json").read_text())["outcomes"]}
    assert outcomes == {"opening", "reading", "verify", "harmless"}
