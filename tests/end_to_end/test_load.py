"""The load test of the service, made short; and that it tells right from wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dist_attr as da
from tests.serving.misbehaving import Behaviour, Script, refuse, say, served, whole

ROOT = Path(__file__).parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    arguments = [sys.executable, "-m", *command]
    return subprocess.run(
        arguments, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=300
    )


def expected(score: float, identity: str = "one") -> dict[str, Any]:
    return {"identity": identity, "results": [{"logprob": -1.0, "scores": {"ant": score}, "token_scores": None}]}


@pytest.mark.parametrize(
    ("behaviour", "wanted", "outcome", "error"),
    [
        (whole(), expected(3.0), "right", None),
        (whole(), expected(3.003), "right", None),
        (whole(), expected(3.004), "wrong", "query 0: scores are off by 0.004"),
        (whole(), expected(3.0, "two"), "wrong", "it is of the store one"),
        (whole(lost=1), expected(3.0), "wrong", "0 results for 1 queries"),
        (say(b"{}"), expected(3.0), "wrong", "it is no answer"),
        (say(b"<html>"), expected(3.0), "wrong", "it is no JSON"),
        (refuse(429, "busy", {"retry-after": "1"}), expected(3.0), "busy", None),
        (refuse(429, "busy"), expected(3.0), "lost", "429"),
        (refuse(503, "away", {"retry-after": "1"}), expected(3.0), "lost", "503"),
    ],
)
def test_what_a_user_makes_of_an_answer(
    behaviour: Behaviour, wanted: dict[str, Any], outcome: str, error: str | None, tmp_path: Path
) -> None:
    case = {"body": {"queries": [{"prompt": "", "completion": "xxx"}]}, "expected": wanted}
    (tmp_path / "plan.json").write_text(json.dumps({"single": [case]}))
    with served(Script([behaviour])) as script:
        options = ["--clients=2", "--seconds=0.5", "--patience=5", f"--json={tmp_path / 'found.json'}"]
        done = run("scripts.load_users", str(tmp_path / "plan.json"), script.endpoint, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["requests"] == found[outcome] == found["kinds"]["single"][outcome] > 0
    assert found["requests"] == len(script.seen)
    assert (found["errors"] == []) if error is None else all(error in each for each in found["errors"])
    assert (found["p50_seconds"] is None) == (outcome in ("busy", "lost"))


@pytest.mark.slow
def test_the_service_answers_many_users_rightly(finished_run: Path, tmp_path: Path) -> None:
    store, out = str(tmp_path / "influence.zarr"), tmp_path / "load.json"
    shutil.copytree(finished_run, tmp_path, dirs_exist_ok=True)
    texts = ("the cat", "a dog", "bee ran", "é emu", "ant", "and the", "1 cat", "the the", "ran")
    da.calibrate(da.open_store(store), [da.Query(completion=text) for text in texts], rank=2)
    done = run("scripts.load", store, "--shards=2", "--minutes=0.1", "--clients=4", "--queries=8", f"--json={out}")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(out.read_text())
    assert found["requests"] == found["right"] + found["busy"] and found["right"] > 0
    assert set(found["kinds"]) <= {"single", "batch", "counterfactual", "baseline", "tokens", "rank"}
    assert all(at["total"] > 100 for at in found["memory_mb"].values())
