"""`dist-attr evaluate` on a real run: what it measures, keeps, writes and refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from typer.testing import CliRunner, Result

import dist_attr as da
from dist_attr.cli import app
from dist_attr.config import EvaluationConfig
from dist_attr.errors import DistAttrError, SimulationError
from dist_attr.evaluation import Kept, RetrainingResult, Workers, evaluate, retrained_outputs
from dist_attr.evaluation.finished import open_run
from dist_attr.evaluation.tail_patch import patching_of
from dist_attr.evaluation.tasks import gathered
from dist_attr.store import MeasuredFidelity, Place, record_fidelity
from tests.end_to_end.conftest import SOURCES, Settings

QUERIES = [
    da.Query(prompt="ant ran and", completion=" the bee"),
    da.Query(prompt="cat", completion=" and dog"),
    da.Query(prompt="", completion="emu é <b>"),
]
ALONE = EvaluationConfig(protocol="leave-source-out")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *arguments])


@pytest.fixture
def run(finished_run: Path, settings: Settings, tmp_path: Path) -> Iterator[da.RunConfig]:
    """A copy of the finished run, to be written to."""
    output = Path(shutil.copytree(finished_run, tmp_path / "run"))
    config = settings(output)
    (output / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    (output / "queries.jsonl").write_text("\n".join(query.model_dump_json() for query in QUERIES), encoding="utf-8")
    yield config


def in_this_process(run: da.RunConfig, seed: int, *without: str) -> Any:
    """The outputs of a plain training."""
    opened = open_run(run, "lds")
    encoded, _ = opened.attributor.engine.encode_all(QUERIES)
    retraining = replace(opened.retraining, queries=encoded)
    return retraining.at(seed).outputs([float(name not in without) for name in SOURCES])


def kept_files(run: da.RunConfig) -> list[Path]:
    return sorted(Path(run.output).glob("evaluation/kept/*.npy"))


@pytest.mark.usefixtures("cluster")
def test_law_10_a_counterfactual_of_the_trajectory_is_the_retraining(run: da.RunConfig) -> None:
    result = evaluate(run, ALONE, queries=QUERIES)
    assert isinstance(result, RetrainingResult)
    found = result.readouts["counterfactual"]
    assert found.correlation.value > 0.999
    assert found.slope.value == pytest.approx(1, abs=0.01) and found.pearson.value > 0.999
    assert result.repeated is not None and result.repeated < 1e-3 and result.ceiling is None
    base, alone = in_this_process(run, 0), in_this_process(run, 0, "cat")
    (row,) = np.flatnonzero(result.dropped[:, SOURCES.index("cat")])
    np.testing.assert_allclose(result.true[row], alone - base, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.predicted[row], alone - base, rtol=0.02, atol=2e-3)


@pytest.mark.usefixtures("cluster")
def test_the_command_writes_what_it_measured_and_queries_say_it(run: da.RunConfig) -> None:
    other, outdated = (
        MeasuredFidelity(truth="this run", readout="linear", dropped=dropped, retrained=9, queries=4, correlation=0.123)
        for dropped in (2, 1)
    )
    store = f"{run.output}/influence.zarr"
    record_fidelity(da.open_store(store), [other, outdated])
    asked = (f"{run.output}/run.yaml", "--protocol", "leave-source-out", "--queries", f"{run.output}/queries.jsonl")
    result = invoke(*asked)
    assert result.exit_code == 0, result.output
    assert "counterfactual 1.00 [1.00, 1.00]" in result.stdout and "trained again 5 times" in result.stdout
    assert "ETA" in result.stderr
    measured = da.open_store(store).manifest.fidelity
    assert [(found.readout, found.dropped) for found in measured] == [
        ("linear", 2),
        ("linear", 1),
        ("counterfactual", 1),
    ]
    assert measured[0] == other and measured[1] != outdated and measured[2].retrained == 5
    said = CliRunner().invoke(app, ["query", store, "--completion", "ant"]).output
    assert (
        "rank correlation with 5 retrained models 1.00 [1.00, 1.00] (this run, 1 source dropped, counter"
        in " ".join(said.split())
    )
    before = [file.stat().st_mtime_ns for file in kept_files(run)]
    facts = json.loads(invoke(*asked, "--json").stdout)
    assert [file.stat().st_mtime_ns for file in kept_files(run)] == before and len(before) == 6
    linear = facts["readouts"]["linear"]
    assert linear["correlation"]["value"] == measured[1].correlation and len(linear["slope"]["queries"]) == 3
    folder = Path(facts["folder"])
    assert folder == Path(run.output) / "evaluation" / "leave-source-out-this-run"
    assert json.loads((folder / "evaluation.json").read_text()) == {k: v for k, v in facts.items() if k != "folder"}
    subsets, queries = (pq.read_table(folder / f"{name}.parquet").to_pandas() for name in ("subsets", "queries"))
    assert len(subsets) == 5 * 3 and len(queries) == 3
    for number, rows in subsets.groupby("query"):
        expected = rows["true"].corr(rows["predicted_linear"], method="spearman")
        assert queries["correlation_linear"][number] == pytest.approx(expected)
    assert {name for names in subsets["dropped"] for name in names} == set(SOURCES)
    page = (folder / "evaluation.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4 and page.count("<circle") == 2 * 15 + 2 * 3 and "http" not in page
    assert "without cat" in page and "prefers-color-scheme: dark" in page and "emu é &lt;b&gt;" in page


@pytest.mark.usefixtures("cluster")
def test_a_copy_of_the_store_is_judged_where_it_lies(run: da.RunConfig) -> None:
    store, other = (f"{run.output}/{name}" for name in ("influence.zarr", "other/influence.zarr"))
    copied = CliRunner().invoke(app, ["copy", store, other, "--codec", "int4"])
    assert copied.exit_code == 0, copied.output
    asked = (f"{run.output}/run.yaml", "--protocol", "leave-source-out", "--store", other, "--count", "3", "--json")
    result = invoke(*asked)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["folder"] == f"{run.output}/other/evaluation/leave-source-out-this-run"
    assert len(da.open_store(other).manifest.fidelity) == 2
    assert da.open_store(store).manifest.fidelity == ()
    assert not (Path(run.output) / "evaluation").exists()


@pytest.mark.usefixtures("cluster")
def test_any_such_run_is_a_mean_over_fresh_seeds_with_a_ceiling(run: da.RunConfig) -> None:
    result = evaluate(run, EvaluationConfig(truth="any such run", drop=0.4, subsets=3), queries=QUERIES)
    assert isinstance(result, RetrainingResult)
    assert result.models == 12 and result.size == 2 and result.repeated is None
    assert result.ceiling is not None and 0 <= result.ceiling <= 1
    dropped = [name for name, gone in zip(SOURCES, result.dropped[0], strict=True) if gone]
    changes = [in_this_process(run, seed, *dropped) - in_this_process(run, seed) for seed in (1, 2, 3, 4)]
    np.testing.assert_allclose(result.true[0], np.mean(changes, axis=0), rtol=1e-4, atol=1e-5)
    assert all(found.ceiling == result.ceiling and found.truth == "any such run" for found in result.measured())


@pytest.mark.usefixtures("cluster")
def test_one_more_step_on_each_source(run: da.RunConfig) -> None:
    asked = (f"{run.output}/run.yaml", "--protocol", "tail-patch", "--top", "2", "--count", "4")
    result = invoke(*asked)
    assert result.exit_code == 0, result.output
    assert "top less bottom" in " ".join(result.stdout.split())
    folder = Path(run.output) / "evaluation" / "tail-patch"
    sources, queries = (pq.read_table(folder / f"{name}.parquet").to_pandas() for name in ("sources", "queries"))
    opened = open_run(run, "tail-patch")
    asked_queries = [da.Query(prompt=row["prompt"], completion=row["completion"]) for _, row in queries.iterrows()]
    engine = opened.attributor.engine
    encoded, _ = engine.encode_all(asked_queries)
    names = opened.store.manifest.space.names
    patching = patching_of(engine.module, names, run.training, opened.retraining.corpus, encoded)
    expected = patching.outputs(SOURCES.index("dog")) - queries["logprob"]
    found = sources[sources["source"] == "dog"]["change"].to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert da.open_store(f"{run.output}/influence.zarr").manifest.fidelity == ()  # it is no retraining
    assert (folder / "evaluation.html").read_text(encoding="utf-8").count("<svg") == 3


@pytest.mark.usefixtures("cluster")
def test_interrupted_it_goes_on_to_the_same_result(run: da.RunConfig) -> None:
    seen: list[tuple[str, int]] = []

    def interrupt(what: str, done: int, of: int) -> None:
        seen.append((what, done))
        if (what, done) == ("retraining", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(run, ALONE, queries=QUERIES, progress=interrupt)
    before = {file: file.read_bytes() for file in kept_files(run)}
    assert len(before) == 3
    assert da.open_store(f"{run.output}/influence.zarr").manifest.fidelity == ()
    result = evaluate(run, ALONE, queries=QUERIES)
    assert {file: file.read_bytes() for file in kept_files(run)}.items() > before.items()
    shutil.rmtree(Path(run.output) / "evaluation")
    whole = evaluate(run, ALONE, queries=QUERIES)
    assert isinstance(result, RetrainingResult) and isinstance(whole, RetrainingResult)
    np.testing.assert_allclose(result.true, whole.true, rtol=1e-6, atol=1e-9)
    assert result.measured() == whole.measured()


@pytest.mark.slow
def test_the_driver_and_everything_else_killed(run: da.RunConfig) -> None:
    """The command as users run it, in a session of its own, all of which is killed at once."""
    asked = [f"{run.output}/run.yaml", "--queries", f"{run.output}/queries.jsonl", "--json"]
    asked += ["--truth", "any-such-run", "--subsets", "5"]
    first = subprocess.Popen(
        [sys.executable, "-m", "dist_attr", "evaluate", *asked], stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not kept_files(run) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = {file: file.read_bytes() for file in kept_files(run)}
    assert 1 <= len(before) < 24
    again = invoke(*asked)
    assert again.exit_code == 0, again.output
    assert len(kept_files(run)) == 24
    assert all(file.read_bytes() == data for file, data in before.items())
    assert json.loads(again.stdout)["retrained"] == 20


@pytest.mark.usefixtures("cluster")
def test_a_task_that_dies_is_started_again_and_at_last_given_up(tmp_path: Path) -> None:
    def dies_once(folder: str, number: int) -> Any:
        marker = Path(folder) / f"{number}"
        if number == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([float(number)])

    def dies(folder: str, number: int) -> Any:
        return os.kill(os.getpid(), signal.SIGKILL)

    found = gathered(dies_once, str(tmp_path), [(0,), (1,), (2,)])
    assert [float(values[0]) for values in found] == [0, 1, 2] and (tmp_path / "1").exists()
    with pytest.raises(SimulationError, match=r"died 1 times .* start the same command again"):
        gathered(dies, str(tmp_path), [(0,)], workers=Workers(1, most_failures=0))


@pytest.mark.usefixtures("cluster")
def test_what_is_kept_is_taken_as_it_is_and_what_is_cut_off_is_not(run: da.RunConfig, tmp_path: Path) -> None:
    opened = open_run(run, "lds")
    encoded, _ = opened.attributor.engine.encode_all(QUERIES)
    retraining = replace(opened.retraining, queries=encoded)
    kept, done = Kept(Place(str(tmp_path / "kept"))), list[int]()
    weights = np.ones((3, 5))
    weights[1, 0] = weights[2, 1] = 0
    first = retrained_outputs(retraining, weights, kept=kept)
    assert first.shape == (1, 3, 3) and len(np.unique(first[0, :, 0])) == 3
    files = sorted((tmp_path / "kept").iterdir())
    assert len(files) == 3
    files[0].write_bytes(files[0].read_bytes()[:-3])
    changed = np.load(files[1])
    np.save(files[1], changed + 1)
    again = retrained_outputs(retraining, weights, kept=kept, on_done=lambda number, _: done.append(number))
    assert sorted(done) == [0, 1, 2]
    difference = np.abs(again - first)[0].max(axis=1)
    assert sorted(difference.round(3).tolist()) == [0, 0, 1]


REFUSED: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
    ({"simulation": {"method": "none"}}, (), "only trains: the run has no store"),
    ({"output": "/nowhere/at/all"}, (), "no finished run at /nowhere/at/all"),
    ({"training": {"steps": 9, "learning_rate": 0.02}}, (), "differs in training.learning_rate, training.steps"),
    ({"model": {"config": {"model_type": "gpt2", "n_layer": 2}}}, (), "another run: it differs in model.config.n_embd"),
    ({}, ("--drop", "5"), "leaves none of the 5 sources"),
    ({}, ("--subsets", "11"), "10 different ways to drop 2 of 5 sources"),
    ({}, ("--truth", "any-such-run", "--runs", "3"), "needs 4 runs or more"),
    ({}, ("--protocol", "tail-patch"), "--top 3 takes 6 of 5 sources"),
    ({}, ("--queries", "{0}/baseline.jsonl"), "no baseline"),
    ({}, ("--queries", "{0}/one.jsonl"), "2 queries or more, there are 1"),
    ({}, ("--queries", "x.jsonl", "--count", "3"), "Give one of them"),
]


@pytest.mark.parametrize(("changes", "arguments", "message"), REFUSED)
def test_refusals(
    changes: dict[str, Any], arguments: tuple[str, ...], message: str, run: da.RunConfig, settings: Settings
) -> None:
    output, lines = Path(run.output), [query.model_dump_json() for query in QUERIES]
    (output / "one.jsonl").write_text(lines[0])
    (output / "baseline.jsonl").write_text('{"completion": "a", "baseline": "b"}\n' + lines[0])
    place = changes.pop("output", output) if "output" in (changes := dict(changes)) else output
    (output / "run.yaml").write_text(settings(place, **changes).to_yaml(), encoding="utf-8")
    result = invoke(f"{output}/run.yaml", *(argument.format(output) for argument in arguments))
    assert result.exit_code == 1 and result.stdout == ""
    assert isinstance(result.exception, DistAttrError) and message in str(result.exception)
    assert kept_files(run) == []


def test_another_refusal_for_each_thing_that_is_not_the_runs(run: da.RunConfig, settings: Settings) -> None:
    output = Path(run.output)
    assert invoke(f"{output}/run.yaml", "--protocol", "loo").exit_code == 2
    documents = Path(str(run.corpus.path)).read_text(encoding="utf-8")
    (output / "others.jsonl").write_text(documents.replace("ran", "run"), encoding="utf-8")
    other = settings(output, corpus={"path": f"{output}/others.jsonl"})
    (output / "run.yaml").write_text(other.to_yaml(), encoding="utf-8")
    assert "does not hold the documents" in str(invoke(f"{output}/run.yaml").exception)
    checkpoint = {
        "corpus": {"path": str(run.corpus.path)},
        "model": {"path": f"{output}/model"},
        "training": {"sequence_length": 32},
        "simulation": {"method": "checkpoint"},
        "output": str(output),
    }
    (output / "run.yaml").write_text(json.dumps(checkpoint), encoding="utf-8")
    said = str(invoke(f"{output}/run.yaml").exception)
    assert "no training to repeat for lds" in said and "Ask for the protocol tail-patch" in said


@pytest.mark.usefixtures("cluster")
def test_a_run_that_cannot_be_repeated_is_found_out(run: da.RunConfig, settings: Settings) -> None:
    """Another start than the run's: the settings are the store's, its weights are not what they lead to."""
    original = da.open_store(f"{run.output}/influence.zarr")
    manifest = original.manifest
    assert manifest.run.training.seed == 0
    fresh = run.training.model_copy(update={"seed": 7})
    changed = manifest.model_copy(update={"run": manifest.run.model_copy(update={"training": fresh})})
    zarr.open_group(original.url, mode="r+").attrs.update(changed.attributes())
    with pytest.raises(SimulationError, match=r"nats off those of the finished one .* too far for the same run"):
        evaluate(run.model_copy(update={"training": fresh}), ALONE, queries=QUERIES)
