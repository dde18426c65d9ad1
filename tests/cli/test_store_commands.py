"""The commands for stores, as a user types them."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from dist_attr.cli import app
from dist_attr.errors import StoreError
from dist_attr.store import Place, SourceRecord, Space, StoreWriter, UnfinishedStore, open_store, store_at
from tests.s3_server import S3Server
from tests.store.test_store import IDENTITY, manifest
from tests.store.test_transfer import NAMES, SIZE, damage, make, rows_of


def invoke(*arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=typed)


def values_of(*arguments: str) -> Any:
    """What a command prints with --json, and nothing else on standard output."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A finished int8 store, and a model's folder beside it."""
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "config.json").write_text("{}")
    return make(f"{tmp_path}/run/influence.zarr", "int8")


def test_inspect_says_what_other_codecs_would_take(store: str) -> None:
    blocks, facts = -(-SIZE // 64), values_of("inspect", store)
    assert facts["bytes_in_each_codec"] == {
        "float32": 4 * 4 * SIZE,
        "bfloat16": 4 * 2 * SIZE,
        "int8": 4 * (SIZE + 4 * blocks),
        "int4": 4 * ((SIZE + 1) // 2 + 4 * blocks),
    }
    assert facts["missing"] == [] and facts["bytes"] == sum(
        file.stat().st_size for file in Path(store).rglob("*") if file.is_file()
    )
    shown = " ".join(invoke("inspect", store).output.split())
    assert "float32 16.0 kB · bfloat16 8.0 kB · int8 4.3 kB · int4 2.3 kB" in shown
    assert "100.0% of the model" in shown and "fidelity" in shown


def test_inspect_of_an_unfinished_store_says_what_is_there(tmp_path: Path) -> None:
    store = make(f"{tmp_path}/a.zarr", failed={"bee": "never written"}, finish=False)
    result = invoke("inspect", store)
    assert result.exit_code == 0
    shown = " ".join(result.output.split())
    assert "3 of 4 sources are written, missing: bee;" in shown
    assert [line.split()[-2] for line in result.output.splitlines()[-5:-1]] == [
        "written",
        "missing",
        "written",
        "written",
    ]
    facts = values_of("inspect", store)
    assert facts["complete"] is False and facts["missing"] == ["bee"] and facts["model"] is None
    assert [source["name"] for source in facts["sources"]] == list(NAMES)


def test_verify_of_a_whole_store(store: str) -> None:
    result = invoke("verify", store)
    assert result.exit_code == 0 and "all 4 sources" in result.stdout
    assert "4/4 sources" in result.stderr and "MB/s" in result.stderr.replace("kB/s", "MB/s")
    facts = values_of("verify", store)
    assert facts.pop("seconds") > 0
    assert facts == {
        "url": store,
        "sources": 4,
        "damaged": {},
        "damaged_basis": None,
        "bytes": 4 * (SIZE + 4 * -(-SIZE // 64)),
    }


def test_verify_names_the_damaged_and_says_how_to_keep_the_others(tmp_path: Path) -> None:
    store = make(f"{tmp_path}/a store.zarr")
    damage(tmp_path / "a store.zarr", 1)
    damage(tmp_path / "a store.zarr", 3)
    result = invoke("verify", store, "--json")
    assert result.exit_code == 1
    damaged = json.loads(result.stdout)["damaged"]
    assert list(damaged) == ["bee", "dog"] and all("is damaged" in why for why in damaged.values())
    result = invoke("verify", store)
    assert result.exit_code == 1 and "2 of 4 sources are damaged; simulate again" in result.stdout
    # What it says can be typed.
    command = shlex.split(result.stdout.splitlines()[-1].partition("dist-attr ")[2])
    target = f"{tmp_path}/kept.zarr"
    assert invoke(*[target if word == "TARGET" else word for word in command]).exit_code == 0
    assert np.array_equal(open_store(target).tangents(), rows_of(("ant", "cat")))


def test_copy_into_another_codec_with_some_sources(store: str, tmp_path: Path) -> None:
    target = f"{tmp_path}/small/influence.zarr"
    result = invoke(
        "copy", store, target, "--codec", "int4", "--block-size", "32", "--source", "dog", "--source", "bee"
    )
    assert result.exit_code == 0 and result.stdout == f"{target}\n"
    assert "what int8 lost does not come back in int4" in result.stderr and "2/2 sources" in result.stderr
    made = open_store(target)
    assert made.sources == ["bee", "dog"]
    assert made.manifest.encoding.model_dump() == {"codec": "int4", "block_size": 32}
    assert (tmp_path / "small" / "model" / "config.json").exists()


def test_copy_without_the_model_as_json(store: str, tmp_path: Path) -> None:
    target = f"{tmp_path}/bare/influence.zarr"
    facts = values_of("copy", store, target, "--no-model")
    made = open_store(target)
    assert facts["url"] == target and facts["sources"] == list(NAMES) and facts["bytes"] == made.stored_bytes
    assert facts["identity"] == made.manifest.identity and facts["codec"] == "int8" and facts["block_size"] == 64
    assert not (tmp_path / "bare" / "model").exists()
    assert "does not come back" not in invoke("copy", store, f"{tmp_path}/again.zarr").stderr


def test_copy_in_memory_and_back(store: str, tmp_path: Path) -> None:
    for target in ("memory://commands/influence.zarr", f"{tmp_path}/back/influence.zarr"):
        assert invoke("copy", store, target).exit_code == 0
        assert open_store(target).records == open_store(store).records
        store = target
    assert (tmp_path / "back" / "model" / "config.json").read_text() == "{}"


def test_copy_to_s3_and_back(
    store: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials and endpoint are found in the environment."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    try:
        server.files().mkdir("bucket")
        here, there = f"{tmp_path}/back/influence.zarr", "s3://bucket/run/influence.zarr"
        for command in (("copy", store, there), ("verify", there), ("copy", there, here), ("rm", there, "--yes")):
            result = invoke(*command)
            assert result.exit_code == 0, result.output
        assert open_store(here).records == open_store(store).records and open_store(here).verify() == {}
        assert server.files().find("bucket") == ["bucket/run/model/config.json"]
    finally:
        server.kill()
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.parametrize("codec", ["float32", "int8"])
def test_ctrl_c_loses_nothing(codec: str, tmp_path: Path) -> None:
    """A real SIGINT in the midst of a copy; the same command goes on."""
    store, target = f"{tmp_path}/large.zarr", f"{tmp_path}/copy.zarr"
    size, rows = 2**20, 24
    records = [
        SourceRecord(name=f"s{row}", documents=1, tokens=2, trained_tokens=2, first_step=0, last_step=1, examples=())
        for row in range(rows)
    ]
    space = Space(names=("weight",), shapes=((size,),), coverage=1.0)
    writer = StoreWriter.create(store, manifest(space=space, sources=rows), records)
    draw = np.random.default_rng(0)
    for row in range(rows):
        writer.write(row, draw.standard_normal(size, np.float32), 150)
    writer.finish(IDENTITY)
    command = ["copy", store, target, "--codec", codec]
    process = subprocess.Popen([sys.executable, "-m", "dist_attr", *command], stderr=subprocess.PIPE, text=True)
    step = Path(target) / "progress" / "step" / "c" / "2"
    while process.poll() is None and not step.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told.splitlines()[-1] == f"interrupted: {target} is unfinished; the same command goes on"
    assert "Traceback" not in told
    there = store_at(Place(target))
    assert isinstance(there, UnfinishedStore) and 2 <= len(there.written) < rows
    assert invoke(*command).exit_code == 0
    made = open_store(target)
    assert made.manifest.identity == there.manifest.identity and made.verify() == {}
    error = np.abs(made.tangents([0, 3, rows - 1]) - open_store(store).tangents([0, 3, rows - 1])).max()
    assert error == 0 if codec == "float32" else 0 < error < 0.05


def test_ctrl_c_in_verify_is_no_damage(tmp_path: Path) -> None:
    store = make(f"{tmp_path}/a.zarr")
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal, sys; from dist_attr.store import InfluenceStore as S\n"
         "S.verify = lambda *_: signal.raise_signal(signal.SIGINT)\n"
         "from dist_attr.cli import main; main()", "verify", store],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    shown, told = process.communicate(timeout=60)
    assert process.returncode == 130 and shown == ""
    assert told.splitlines()[-1].startswith("interrupted: nothing was changed")


def test_merge(store: str, tmp_path: Path) -> None:
    parts = [f"{tmp_path}/{name}/influence.zarr" for name in NAMES[:3]]
    for name, part in zip(NAMES, parts, strict=False):
        assert invoke("copy", store, part, "--source", name).exit_code == 0
    target = f"{tmp_path}/all/influence.zarr"
    facts = values_of("merge", *parts, target)
    assert facts["url"] == target and facts["sources"] == list(NAMES[:3])
    made, original = open_store(target), open_store(store)
    assert made.records == original.records[:3] and made.verify() == {}
    assert (tmp_path / "all" / "model" / "config.json").exists()
    again = invoke("merge", *parts, f"{tmp_path}/again.zarr", "--no-model")
    assert again.exit_code == 0 and again.stdout == f"{tmp_path}/again.zarr\n"


def test_rm_shows_and_asks(store: str, tmp_path: Path) -> None:
    identity = open_store(store).manifest.identity
    result = invoke("rm", store, typed="n\n")
    assert result.exit_code == 1
    assert f"4 sources, identity {identity}" in result.stdout and "finished" in result.stdout
    assert open_store(store).verify() == {}
    result = invoke("rm", store, typed="y\n")
    assert result.exit_code == 0 and f"removed {store}" in result.stdout
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["model"]


def test_rm_of_an_unfinished_and_of_a_damaged_store(tmp_path: Path) -> None:
    unfinished = make(f"{tmp_path}/a.zarr", finish=False)
    assert "unfinished" in invoke("rm", unfinished, typed="n\n").stdout
    facts = values_of("rm", unfinished, "--yes")
    assert facts["sources"] == 4 and facts["state"] == "unfinished" and facts["bytes"] > 0
    damaged = make(f"{tmp_path}/b.zarr")
    Path(damaged, "sources.parquet").write_bytes(b"PAR1")
    result = invoke("rm", damaged, typed="y\n")
    assert "b.zarr is damaged" in result.stdout and result.exit_code == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["verify", "{0}/none.zarr"], 1, "there is no influence store at"),
        (["verify", "{0}/unfinished.zarr"], 1, "these sources are missing: bee"),
        (["copy", "{0}/unfinished.zarr", "{0}/b.zarr"], 1, "is not finished"),
        (["copy", "{0}/a.zarr", "{0}/other.zarr"], 1, "there is something at"),
        (["copy", "{0}/a.zarr", "{0}/b.zarr", "--source", "eel"], 1, "has no tangents of eel"),
        (["copy", "{0}/a.zarr", "{0}/b.zarr", "--codec", "int3"], 2, "int3"),
        (["copy", "{0}/a.zarr", "{0}/b.zarr", "--block-size", "63"], 2, "63"),
        (["copy", "{0}/a.zarr", "{0}/b.zarr", "--block-size", "64"], 2, "float32 has no scales"),
        (["copy", "{0}/a.zarr", "nowhere://b.zarr"], 1, "cannot reach nowhere://b.zarr"),
        (["merge", "{0}/a.zarr", "{0}/b.zarr"], 2, "two or more stores"),
        (["merge", "{0}/a.zarr", "{0}/other.zarr", "{0}/b.zarr"], 1, "not of one run: they differ in computes"),
        (["merge", "{0}/a.zarr", "{0}/a.zarr", "{0}/b.zarr"], 1, "both have a tangent of 'ant'"),
        (["rm", "{0}", "--yes"], 1, "is no influence store"),
        (["rm", "{0}/none.zarr", "--yes"], 1, "there is no influence store"),
        (["rm", "{0}/a.zarr", "--json"], 2, "it needs --yes"),
    ],
)
def test_errors(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    make(f"{tmp_path}/a.zarr")
    make(f"{tmp_path}/other.zarr", computes="f" * 64)
    make(f"{tmp_path}/unfinished.zarr", failed={"bee": "never written"}, finish=False)
    before = sorted(str(file) for file in tmp_path.rglob("*"))
    result = invoke(*[argument.format(tmp_path) for argument in arguments])
    assert result.exit_code == code and result.stdout == ""
    # What is addressed to the user is an exception, which `main` prints; what is wrongly typed is printed by typer.
    told = str(result.exception) if isinstance(result.exception, StoreError) else result.stderr.replace("│", " ")
    assert message in " ".join(told.split())
    assert sorted(str(file) for file in tmp_path.rglob("*")) == before
