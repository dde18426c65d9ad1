"""`dist-attr submit`, from outside a real cluster of two nodes, with a run's output on S3."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from ray.job_submission import JobSubmissionClient

import dist_attr as da
from dist_attr.auditing import read_audit, read_scores
from tests.end_to_end.conftest import SOURCES
from tests.end_to_end.test_simulate import Settings
from tests.nodes import WITHOUT_TOKEN, Nodes
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
PATIENCE = 240


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Each node has one CPU, so that two workers are on two nodes; neither knows how to reach the S3 server."""
    cluster = Nodes({"AWS_EC2_METADATA_DISABLED": "true"})
    yield cluster
    cluster.close()


@pytest.fixture
def here(tmp_path: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> Path:
    """A user's folder with the documents, and an environment that reaches the S3 server."""
    (tmp_path / "documents.jsonl").write_bytes(corpus_file.read_bytes())
    monkeypatch.chdir(tmp_path)
    for name, value in {**s3.environment, **WITHOUT_TOKEN}.items():
        monkeypatch.setenv(name, value)
    # The cluster is the one asked for, whatever this names.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    return tmp_path


def write_run(settings: Settings, s3: S3Server, **changes: dict[str, Any]) -> str:
    """A run with its output in an empty bucket; returns that."""
    bucket = f"bucket-{uuid4().hex}"
    s3.files().mkdir(bucket)
    config = settings(f"s3://{bucket}/run", corpus={"path": "documents.jsonl"}, **changes)
    Path("run.yaml").write_text(config.to_yaml())
    return config.output


def submitting(nodes: Nodes, s3: S3Server, *words: str) -> list[str]:
    passed_on = [word for name in s3.environment for word in ("--env", name)]
    return [sys.executable, "-m", "dist_attr", "submit", "--address", nodes.dashboard, *passed_on, *words]


def submit(nodes: Nodes, s3: S3Server, *words: str) -> subprocess.CompletedProcess[str]:
    command = submitting(nodes, s3, *words)
    environment = {**os.environ, "PYTHONPATH": str(Path(da.__file__).parents[1])}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_simulate_evaluate_and_audit(nodes: Nodes, here: Path, settings: Settings, s3: S3Server) -> None:
    output = write_run(settings, s3)
    done = submit(nodes, s3, "simulate", "run.yaml", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "with run.yaml, documents.jsonl" in done.stderr
    *strides, last = json_lines(done.stdout)
    assert [stride["step"] for stride in strides][-1] == 8
    assert last == {"output": output, "store": f"{output}/influence.zarr"}
    store = da.open_store(f"{output}/influence.zarr")
    assert sorted(store.sources) == sorted(SOURCES)
    assert not store.verify()

    judged = submit(nodes, s3, "evaluate", "run.yaml", "--protocol", "tail-patch", "--top", "2", "--count", "4")
    assert judged.returncode == 0, judged.stderr + judged.stdout
    assert any(name.endswith("evaluation.html") for name in s3.files().find(f"{output}/evaluation"))

    rows = [{"prompt": "the", "completion": f" state of {n}", "group": "ab"[n % 2]} for n in range(12)]
    Path("answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    where = ["--queries", "answers.jsonl", "--out", f"{output}/audit", "--part", "2", "--corpus", "documents.jsonl"]
    audited = submit(nodes, s3, "audit", f"{output}/influence.zarr", *where)
    assert audited.returncode == 0, audited.stderr + audited.stdout
    assert f"{output}/audit/report.html" in audited.stdout
    found = read_audit(f"{output}/audit")
    assert found.number == len(read_scores(f"{output}/audit")) == 12 and found.duplicates is not None

    secret = s3.environment["AWS_SECRET_ACCESS_KEY"]
    assert not any(secret in each.stdout + each.stderr for each in (done, judged, audited))


def test_a_job_that_fails_says_why(nodes: Nodes, here: Path, settings: Settings, s3: S3Server) -> None:
    write_run(settings, s3)
    first, *others = Path("documents.jsonl").read_text().splitlines()
    Path("documents.jsonl").write_text("\n".join([first, first, *others]))
    done = submit(nodes, s3, "simulate", "run.yaml")
    assert done.returncode == 1
    said = done.stderr.split("error: ", 1)[1]
    assert "failed with exit code 1" in said and "'d0'" in said
    assert "Traceback" not in done.stderr


def test_ctrl_c_leaves_a_job_running_and_a_stopped_one_goes_on(
    nodes: Nodes, here: Path, settings: Settings, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 2000
    output = write_run(settings, s3, training={"steps": steps}, cluster={"checkpoint_minutes": 60})
    command = submitting(nodes, s3, "simulate", "run.yaml", "--json")
    environment = {**os.environ, "PYTHONPATH": str(Path(da.__file__).parents[1])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        while not (line := watching.stdout.readline()).startswith("{"):
            assert line, watching.stderr.read()
        watching.send_signal(signal.SIGINT)
        said = watching.stderr.read()
        assert watching.wait(30) == 130
    assert "goes on" in said and "Traceback" not in said
    follow, stop = (shlex.split(line.split("with", 1)[1]) for line in said.splitlines()[-2:])
    job = follow[-1]

    monkeypatch.delenv("RAY_ADDRESS")
    client = JobSubmissionClient(nodes.dashboard)
    assert client.get_job_status(job) == "RUNNING"
    subprocess.run([BIN / stop[0], *stop[1:]], check=True, capture_output=True, timeout=PATIENCE)
    assert client.get_job_status(job) == "STOPPED"
    shown = subprocess.run([BIN / follow[0], *follow[1:]], check=True, capture_output=True, text=True, timeout=60)
    reached = json_lines(shown.stdout)[-1]["step"]
    assert reached < steps

    # Fewer steps would be another run, so the rest is only begun.
    again = submit(nodes, s3, "--no-wait", "simulate", "run.yaml", "--json")
    assert again.returncode == 0, again.stderr
    end = time.monotonic() + PATIENCE
    while not (strides := json_lines(client.get_job_logs(again.stdout.strip()))):
        assert time.monotonic() < end and not client.get_job_status(again.stdout.strip()).is_terminal()
        time.sleep(1)
    assert strides[0]["step"] >= reached, f"nothing of {output} was kept when the job was stopped"
    client.stop_job(again.stdout.strip())
