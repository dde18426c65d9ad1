"""What is sent with a job, and what is refused before anything is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from dist_attr.cli import app
from dist_attr.cli.submit import NOT_AS_JOBS
from dist_attr.cluster import shipment
from dist_attr.cluster.shipment import LASTING, READ, pack
from dist_attr.errors import ConfigError, UnavailableError
from tests.s3_server import free_ports


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with more in it than a run needs."""
    folder = tmp_path / "here"
    (folder / "models" / "mine").mkdir(parents=True)
    (folder / "models" / "mine" / "config.json").write_text("{}")
    (folder / "data").mkdir()
    (folder / "data" / "documents.jsonl").write_text("a document")
    (folder / "data" / "other.jsonl").write_text("another")
    (folder / ".gitignore").write_text("data\n")
    (folder / "keys.txt").write_text("a secret")
    (folder / "zero.json").write_text(json.dumps({"wall_clock_breakdown": True}))
    monkeypatch.chdir(folder)
    return folder


def write_run(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "corpus": {"path": "data/documents.jsonl"},
        "model": {"path": "models/mine"},
        "training": {"deepspeed": "zero.json"},
        "output": "s3://bucket/run",
    }
    Path("run.yaml").write_text(yaml.safe_dump({**values, **changes}))
    return {"run": "run.yaml", "overwrite": False, "queries": None}


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_exactly_what_the_run_names_is_sent(here: Path, tmp_path: Path) -> None:
    sent = pack(write_run(), [], tmp_path / "sent")
    assert {str(path) for path in sent} == {"run.yaml", "data/documents.jsonl", "models/mine", "zero.json"}
    assert files(tmp_path / "sent") == {"run.yaml", "data/documents.jsonl", "models/mine/config.json", "zero.json"}
    assert (tmp_path / "sent" / "data" / "documents.jsonl").read_text() == "a document"


def test_queries_of_a_command_are_sent_and_its_store_is_not(here: Path, tmp_path: Path) -> None:
    parameters = {"store": "s3://bucket/influence.zarr", "queries": Path("data/other.jsonl"), "out": "s3://bucket/out"}
    assert pack(parameters, [], tmp_path / "sent") == [Path("data/other.jsonl")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output": "runs/mine"}, "output of run.yaml is runs/mine, a path of one machine"),
        ({"output": "/runs/mine"}, "output of run.yaml is /runs/mine, a path of one machine"),
        ({"output": "file:///runs/mine"}, "output of run.yaml is file:///runs/mine, a path of one machine"),
        ({"corpus": {"path": "gone.jsonl"}}, "corpus.path of run.yaml is gone.jsonl, and that is not there"),
        ({"corpus": {"path": "../outside.jsonl"}}, "corpus.path of run.yaml is ../outside.jsonl; only what lies below"),
        ({"model": {"path": "gone"}, "tokenizer": "bytes"}, "model.path of run.yaml is gone, and that is not there"),
        ({"tokenizer": "gone"}, "tokenizer of run.yaml is gone, and that is not there"),
    ],
)
def test_what_the_cluster_cannot_see_is_refused(changes: dict[str, Any], said: str, here: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.jsonl").write_text("a document")
    with pytest.raises(ConfigError, match=said):
        pack(write_run(**changes), [], tmp_path / "sent")
    assert not (tmp_path / "sent").exists()


def test_a_link_is_sent_under_its_own_name(here: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.jsonl").write_text("far away")
    Path("link.jsonl").symlink_to(tmp_path / "outside.jsonl")
    pack(write_run(corpus={"path": "link.jsonl"}), [], tmp_path / "sent")
    assert (tmp_path / "sent" / "link.jsonl").read_text() == "far away"
    assert not (tmp_path / "sent" / "link.jsonl").is_symlink()


def test_everything_that_is_wrong_is_named_at_once(here: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)corpus\.path.*output"):
        pack(write_run(corpus={"path": "gone.jsonl"}, output="runs/mine"), [], tmp_path / "sent")


def test_an_absolute_path_is_one_of_the_nodes_only_where_they_share_it(here: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    parameters = write_run(corpus={"path": f"{shared}/documents.jsonl"}, output=f"{shared}/run")
    assert Path("data/documents.jsonl") not in pack(parameters, [shared], tmp_path / "sent")
    with pytest.raises(ConfigError, match=r"output of run\.yaml"):
        pack(parameters, [tmp_path / "elsewhere"], tmp_path / "sent")


def test_too_much_is_refused_before_it_is_copied(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipment, "LARGEST", 5)
    with pytest.raises(ConfigError, match="put the large ones on object storage"):
        pack(write_run(), [], tmp_path / "sent")
    assert not (tmp_path / "sent").exists()


def test_every_path_of_every_command_is_one_to_send_or_one_that_lasts() -> None:
    """A new command's FILE or FOLDER has to be in one of the two lists, or it would be missing on the cluster."""
    group: Any = typer.main.get_command(app)
    paths = {
        str(parameter.name)
        for name, command in group.commands.items()
        if name not in NOT_AS_JOBS
        for parameter in command.params
        if any(word in str(parameter.metavar) for word in ("FILE", "FOLDER", "PATH", "STORE", "TARGET", "yaml"))
    }
    assert paths == {*READ, *LASTING}


def submitted(*words: str) -> Any:
    return CliRunner().invoke(app, ["submit", *words])


def test_a_command_line_is_read_before_it_is_sent() -> None:
    address = f"--address=http://127.0.0.1:{next(free_ports(1))}"
    wrong = submitted(address, "simulate", "run.yaml", "--no-such-option")
    assert wrong.exit_code == 2 and "--no-such-option" in wrong.output
    never = submitted(address, "serve", "s3://bucket/influence.zarr")
    assert never.exit_code == 2 and "'serve' cannot run as a job" in never.output


def test_a_variable_that_is_not_there(here: Path) -> None:
    write_run()
    error = submitted("--address=http://127.0.0.1:1", "--env", "NO_SUCH_VARIABLE", "simulate", "run.yaml").exception
    assert isinstance(error, ConfigError) and "--env NO_SUCH_VARIABLE" in str(error)


@pytest.mark.parametrize("text", ["- a list", "working_dir: .", "{"])
def test_a_runtime_environment_of_another_form(text: str, here: Path) -> None:
    write_run()
    Path("env.yaml").write_text(text)
    error = submitted("--address=http://127.0.0.1:1", "--runtime-env=env.yaml", "simulate", "run.yaml").exception
    assert isinstance(error, ConfigError) and "env.yaml" in str(error)


def test_nobody_answers(here: Path) -> None:
    write_run()
    address = f"http://127.0.0.1:{next(free_ports(1))}"
    error = submitted("--address", address, "simulate", "run.yaml").exception
    assert isinstance(error, UnavailableError) and f"no Ray cluster answers at {address}" in str(error)


@contextmanager
def server(status: int) -> Iterator[str]:
    """One that speaks HTTP, and answers everything with this status."""

    class Polite(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"hello": "there"}')

        def log_message(self, *_: Any) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Polite)
    Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()


@pytest.mark.parametrize(
    ("status", "said"), [(200, "is not a Ray cluster"), (404, "is not a Ray cluster"), (401, "asks for its token")]
)
def test_somebody_else_answers(status: int, said: str, here: Path) -> None:
    write_run()
    with server(status) as address:
        error = submitted("--address", address, "simulate", "run.yaml").exception
    assert isinstance(error, ConfigError) and said in str(error), error


def test_an_address_of_another_kind(here: Path) -> None:
    write_run()
    error = submitted("--address", "auto", "simulate", "run.yaml").exception
    assert isinstance(error, ConfigError) and "is not the address of a cluster's" in str(error), error
