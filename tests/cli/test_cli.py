"""The commands as a user types them; tests/end_to_end has those that need a cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dist_attr.cli import app
from dist_attr.store import MeasuredFidelity, record_fidelity
from tests.readout.test_attributor import NAMES
from tests.stores import make_store


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dist_attr", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("cli"), NAMES).url


@pytest.mark.parametrize(
    "command", ["demo", "plan", "simulate", "inspect", "query", "calibrate", "serve", "verify", "copy", "merge", "rm"]
)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output


def test_inspect(store: str) -> None:
    result = CliRunner().invoke(app, ["inspect", store])
    assert result.exit_code == 0
    assert "bee" in result.output and "100.0% of the model" in result.output


def test_inspect_json(store: str) -> None:
    values = json.loads(CliRunner().invoke(app, ["inspect", store, "--json"]).output)
    assert [source["name"] for source in values["sources"]] == ["ant", "bee", "cat"]
    assert values["complete"] is True


def test_query_shows_a_ranked_table(store: str) -> None:
    result = CliRunner().invoke(app, ["query", store, "--prompt", "ab", "--completion", "cd", "--top", "2"])
    assert result.exit_code == 0
    assert "log p(completion | prompt)" in result.output
    assert sum(name in result.output for name in ("ant", "bee", "cat")) == 2


def test_query_json(store: str) -> None:
    result = CliRunner().invoke(app, ["query", store, "--completion", "cd", "--readout", "counterfactual", "--json"])
    answer = json.loads(result.output)
    assert answer["readout"] == "counterfactual"
    assert len(answer["results"][0]["sources"][0]["token_scores"]) == 2


def test_an_error_is_one_message_and_exit_code_1(tmp_path: Path) -> None:
    result = run("inspect", str(tmp_path / "none.zarr"))
    assert result.returncode == 1
    assert result.stderr.startswith("error: there is no influence store at")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "missing.jsonl"),
        (['{"id": "a", "source": "s"}'], "text"),
        (['{"id": "a", "text": "t", "source": "s"}'], "two sources"),
        (['{"id": "a", "text": "t", "source": "s"}', '{"id": "a", "text": "t", "source": "r"}'], "'a'"),
        (['{"id": "a", "text": "t", "source": ""}'], "source"),
    ],
)
def test_a_corpus_that_cannot_be_used_stops_simulate(lines: list[str] | None, message: str, tmp_path: Path) -> None:
    corpus = tmp_path / ("missing.jsonl" if lines is None else "documents.jsonl")
    if lines is not None:
        corpus.write_text("\n".join(lines))
    settings = tmp_path / "run.yaml"
    settings.write_text(f"corpus: {{path: {corpus}}}\noutput: {tmp_path / 'out'}\n")
    result = run("simulate", str(settings))
    assert result.returncode == 1
    assert result.stderr.lstrip().startswith("error:") or "error:" in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_query_needs_a_store_or_an_endpoint() -> None:
    result = CliRunner().invoke(app, ["query", "--completion", "x"])
    assert result.exit_code == 2
    assert "STORE" in result.output


def test_query_and_inspect_say_what_was_measured(tmp_path: Path) -> None:
    measured = MeasuredFidelity(
        truth="this run",
        readout="linear",
        dropped=2,
        retrained=40,
        queries=48,
        correlation=0.975,
        interval=(0.956, 0.979),
        slope=1.02,
        ceiling=0.99,
    )
    store = record_fidelity(make_store(tmp_path, NAMES), [measured])
    said = "retrained models 0.97 [0.96, 0.98] (this run, 2 sources dropped, linear readout, 48 queries), slope 1.02"
    for command in (["query", store.url, "--completion", "x"], ["inspect", store.url]):
        printed = " ".join(run(*command).stdout.split())
        assert said in printed
