"""Calibrating a store and asking through its basis, as a user types it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zarr
from typer.testing import CliRunner, Result

from dist_attr.cli import app
from dist_attr.config import CorpusConfig
from dist_attr.corpus import corpus_fingerprint, load_documents
from dist_attr.errors import DistAttrError
from dist_attr.store import open_basis, open_store
from tests.readout.test_basis import SOURCES, make_store, queries


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, questions and documents; the store's manifest says that it was made from these."""
    folder = tmp_path_factory.mktemp("calibrate")
    store = make_store(folder)
    (folder / "questions.jsonl").write_text("\n".join(query.model_dump_json() for query in queries(20, seed=1)))
    lines = [{"id": str(n), "text": f"number {n} of the documents, " * 9, "source": f"s{n % 2}"} for n in range(6)]
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, lines)))
    corpus = CorpusConfig(path=f"{folder}/documents.jsonl")
    run = store.manifest.run.model_copy(update={"corpus": CorpusConfig(path="nowhere://at.all/x.jsonl")})
    changes = {"corpus": corpus_fingerprint(load_documents(corpus)), "run": run}
    manifest = store.manifest.model_copy(update=changes)
    zarr.open_group(f"{folder}/influence.zarr", mode="r+").attrs.update(manifest.attributes())
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """The same, to be altered."""
    yield Path(shutil.copytree(folder, tmp_path / "run"))


def values_of(*arguments: str) -> Any:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_calibrate_and_query(run: Path) -> None:
    store = f"{run}/influence.zarr"
    result = invoke("calibrate", store, "--queries", f"{run}/questions.jsonl", "--rank", "6")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"6 directions for {SOURCES} sources keep ")
    assert "of the scores of 20 queries" in result.stdout and "ETA" in result.stderr
    asked = ("query", store, "--prompt", "the state", "--completion", " of fear")
    exact, answer = values_of(*asked), values_of(*asked, "--rank", "4")
    assert exact["rank"] is None and all(source["error"] is None for source in exact["results"][0]["sources"])
    assert answer["rank"] == 4 and all(source["error"] > 0 for source in answer["results"][0]["sources"])
    scores, true = ({s["source"]: s["score"] for s in found["results"][0]["sources"]} for found in (answer, exact))
    errors = {source["source"]: source["error"] for source in answer["results"][0]["sources"]}
    assert scores != true and all(abs(scores[name] - true[name]) < 6 * errors[name] for name in true)
    shown = " ".join(invoke(*asked, "--rank", "4").output.split())
    assert "4 directions of its basis" in shown and shown.count("±") == SOURCES + 1
    assert "±" not in invoke(*asked).output


def test_energy_is_the_default_and_json_has_the_facts(run: Path) -> None:
    store = f"{run}/influence.zarr"
    facts = values_of("calibrate", store, "--queries", f"{run}/questions.jsonl")
    assert facts["energy"] >= 0.99 and facts["queries"] == 20 and facts["sources"] == SOURCES
    assert 0 < facts["median_relative_error"] < 0.5
    basis = values_of("inspect", store)["basis"]
    assert basis["rank"] == facts["rank"] == len(basis["rows"]) and basis["energy"] == facts["energy"]
    assert f"{basis['rank']} directions, 9" in invoke("inspect", store).output


def test_queries_are_drawn_from_the_documents_the_user_names(run: Path) -> None:
    store = f"{run}/influence.zarr"
    facts = values_of("calibrate", store, "--corpus", f"{run}/documents.jsonl", "--count", "9", "--rank", "2")
    assert (facts["queries"], facts["rank"]) == (9, 2)


def test_damage_is_found_and_the_rest_goes_on(run: Path) -> None:
    store = f"{run}/influence.zarr"
    assert invoke("calibrate", store, "--queries", f"{run}/questions.jsonl", "--rank", "3").exit_code == 0
    assert invoke("verify", store).exit_code == 0 and values_of("verify", store)["damaged_basis"] is None
    copied = invoke("copy", store, f"{run}/copy.zarr", "--no-model")
    assert "the readout basis is not copied" in copied.stderr
    assert open_basis(open_store(f"{run}/copy.zarr")) is None
    shard = run / "influence.zarr" / "basis" / "directions" / "c" / "2" / "0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    result = invoke("verify", store)
    assert result.exit_code == 1 and f"all {SOURCES} sources" in result.stdout
    assert "is damaged, direction 2" in result.stdout and "dist-attr calibrate makes another" in result.stdout
    assert "direction 2" in json.loads(invoke("verify", store, "--json").stdout)["damaged_basis"]
    asked = ("query", store, "--completion", "fear")
    assert invoke(*asked).exit_code == 0 and invoke(*asked, "--rank", "2").exit_code == 0
    refused = invoke(*asked, "--rank", "3")
    assert refused.exit_code == 1 and "direction 2" in str(refused.exception)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--queries", "{0}/questions.jsonl", "--rank", "2", "--energy", "0.9"], 2, "either a --rank or an --energy"),
        (["--queries", "{0}/questions.jsonl", "--corpus", "x"], 2, "either --queries or a --corpus"),
        ([], 2, "a path in the store is not followed"),
        (["--queries", "{0}/questions.jsonl", "--rank", "13"], 1, "it is at most 12"),
        (["--queries", "{0}/none.jsonl"], 1, "none.jsonl does not exist"),
        (["--queries", "{0}/documents.jsonl"], 1, "documents.jsonl, line 1: completion: Field required"),
        (["--queries", "{0}/empty.jsonl"], 1, "at least 8 calibration queries, there are 0"),
        (["--corpus", "{0}/others.jsonl"], 1, "does not hold the documents that"),
    ],
)
def test_errors(arguments: list[str], code: int, message: str, folder: Path) -> None:
    (folder / "empty.jsonl").touch()
    lines = (folder / "documents.jsonl").read_text().replace("number 5", "number 6")
    (folder / "others.jsonl").write_text(lines)
    store = f"{folder}/influence.zarr"
    result = invoke("calibrate", store, *[argument.format(folder) for argument in arguments])
    assert result.exit_code == code and result.stdout == ""
    told = str(result.exception) if isinstance(result.exception, DistAttrError) else result.stderr.replace("│", " ")
    assert message in " ".join(told.split())
    assert open_basis(open_store(store)) is None
