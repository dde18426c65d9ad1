"""`method: checkpoint` on real Ray actors: against the Hessian itself, laws 3 and 5, and what goes wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import dist_attr as da
from dist_attr.cli import app
from dist_attr.config import DescentConfig
from dist_attr.display.store import _how
from dist_attr.errors import ConfigError, CorpusError, SimulationError
from dist_attr.evaluation import retrain
from dist_attr.influence import Curvature
from dist_attr.models import build_model, load_model, model_fingerprint, save_model
from dist_attr.simulation import Estimate, plan, planning_descent
from dist_attr.simulation.descent import DescentActor, agree
from dist_attr.simulation.prepare import prepare
from dist_attr.store import Descent
from tests.end_to_end.conftest import SOURCES
from tests.end_to_end.test_resume import ALWAYS, assert_same_result, continued, interrupted
from tests.end_to_end.test_simulate import assert_nothing_looks_finished, close, kill_once

Settings = Callable[..., da.RunConfig]
pytestmark = pytest.mark.usefixtures("cluster")

WEIGHTS = {"bee": 0.5}


def write_documents(path: Path, words: dict[str, int]) -> None:
    """Two documents of each source, of so many words."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number, source in enumerate(2 * list(words)):
            text = " ".join(draw.choice([source, "the", "and", "ran", "é"]) for _ in range(words[source]))
            file.write(json.dumps({"id": f"d{number}", "source": source, "text": text}) + "\n")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    write_documents(path, dict.fromkeys(SOURCES, 12))
    return path


@pytest.fixture(scope="module")
def model(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that was finished elsewhere, by plain torch."""
    folder = str(tmp_path_factory.mktemp("model"))
    config = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2}
    training = {"steps": 60, "batch_size": 8, "sequence_length": 32, "learning_rate": 0.01}
    run = da.RunConfig.parse({"corpus": {"path": str(documents)}, "model": {"config": config}, "training": training})
    prepared = prepare(run)
    model = build_model(run.model, vocabulary=257, end_of_text=256, sequence_length=32, seed=0)
    weights = [WEIGHTS.get(name, 1.0) for name in SOURCES]
    save_model(retrain(model, prepared.task.corpus, run.training, weights), folder)
    prepared.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def descending(documents: Path, model: str) -> Settings:
    """A descent from that model; keyword arguments change its rooms' settings."""

    def make(output: Path, descent: dict[str, Any] | None = None, **changes: dict[str, Any]) -> da.RunConfig:
        values: dict[str, dict[str, Any]] = {
            "corpus": {"path": str(documents)},
            "model": {"path": model, "include": [r"ln_f", r"ln_1", r"c_proj\.bias"]},
            "training": {"sequence_length": 32, "source_weights": WEIGHTS},
            "simulation": {"method": "checkpoint", "descent": {"steps": 12, **(descent or {})}},
            "store": {"codec": "float32"},
            "cluster": {"workers": 2},
        }
        for room, change in changes.items():
            values[room] = {**values[room], **change}
        return da.RunConfig.parse({**values, "output": str(output)})

    return make


@pytest.fixture(scope="module")
def finished(descending: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished descent on two workers."""
    output = tmp_path_factory.mktemp("descent")
    da.simulate(descending(output))
    return output


def store_of(output: Path) -> da.InfluenceStore:
    return da.open_store(str(output / "influence.zarr"))


def descent_of(output: Path) -> Descent:
    descent = store_of(output).manifest.descent
    assert descent is not None
    return descent


@pytest.fixture(scope="module")
def exact(finished: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """H (P, P) and the sources' gradients g (sources, P) in float64: a plain model, autograd twice."""
    manifest = store_of(finished).manifest
    corpus = prepare(manifest.run).task.corpus
    model = AutoModelForCausalLM.from_pretrained(finished / "model", attn_implementation="eager").double().eval()
    tokens, sources = torch.from_numpy(corpus.tokens).long(), torch.from_numpy(corpus.token_sources)[:, 1:].long()
    start = torch.cat([model.get_parameter(name).detach().flatten() for name in manifest.space.names])
    sizes = [model.get_parameter(name).numel() for name in manifest.space.names]

    def loss(theta: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        pieces = zip(manifest.space.names, theta.split(sizes), manifest.space.shapes, strict=True)
        changed = {name: piece.view(shape) for name, piece, shape in pieces}
        logits = torch.func.functional_call(model, changed, (tokens[:, :-1],)).logits
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        real = sources.flatten() >= 0
        total: torch.Tensor = (weights[sources.flatten()] * losses)[real].sum() / real.sum()
        return total

    trained_with = torch.tensor([WEIGHTS.get(name, 1.0) for name in SOURCES], dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda theta: loss(theta, trained_with), start)
    assert isinstance(hessian, torch.Tensor)
    gradients = []
    for source in range(len(SOURCES)):
        theta = start.clone().requires_grad_()
        loss(theta, torch.eye(len(SOURCES), dtype=torch.float64)[source]).backward()
        assert theta.grad is not None
        gradients.append(theta.grad)
    return hessian.numpy(), torch.stack(gradients).numpy()


Exact = tuple[NDArray[np.float64], NDArray[np.float64]]


def test_rate_and_damping_are_those_of_the_hessian(finished: Path, exact: Exact) -> None:
    values, found = np.linalg.eigvalsh(exact[0]), descent_of(finished)
    assert values[0] < 0
    assert found.largest == pytest.approx(values[-1], rel=3e-3)
    assert found.smallest == pytest.approx(values[0], abs=3e-3 * values[-1])
    assert found.damping == pytest.approx(0.01 * values[-1] - values[0], abs=4e-3 * values[-1])
    assert found.rate == pytest.approx(1 / (values[-1] + found.damping), rel=1e-2)


def test_after_k_steps_it_is_their_sum(finished: Path, exact: Exact) -> None:
    (hessian, gradients), descent = exact, descent_of(finished)
    shrink = np.eye(len(hessian)) - descent.rate * (hessian + descent.damping * np.eye(len(hessian)))
    powers = (np.linalg.matrix_power(shrink, step) for step in range(descent.steps))
    close(store_of(finished).tangents(), -descent.rate * gradients @ sum(powers), 1e-4)


def test_after_many_steps_it_is_the_damped_inverse_hessian(descending: Settings, exact: Exact, tmp_path: Path) -> None:
    (hessian, gradients), damping = exact, 0.3 * float(np.linalg.eigvalsh(exact[0])[-1])
    store = da.simulate(descending(tmp_path, {"steps": 60, "damping": damping}, cluster={"workers": 1}))
    assert store is not None
    eye = np.eye(len(hessian))
    close(store.tangents(), -np.linalg.solve(hessian + damping * eye, gradients.T).T, 1e-4)
    # The damping matters: it is not the solution for another one.
    other = -np.linalg.solve(hessian + 1.1 * damping * eye, gradients.T).T
    assert np.linalg.norm(store.tangents() - other) > 0.02 * np.linalg.norm(other)


def in_this_process(run: da.RunConfig, workers: int) -> tuple[NDArray[np.float64], Descent]:
    """The tangents of all sources, from as many actors as there are workers, without Ray between them."""
    run = run.model_copy(update={"cluster": run.cluster.model_copy(update={"workers": workers})})
    settings, task = run.simulation.descent, prepare(run).task
    assert settings is not None
    actors = [DescentActor(rank, task) for rank in range(workers)]
    for actor in actors:
        actor.build()
        actor.join("", "", None)
    descent = agree(settings, [curvature for actor in actors for curvature in actor.measure()])
    rows: dict[int, NDArray[np.float64]] = {}
    for rank, actor in enumerate(actors):
        actor.descend(descent)
        actor.advance(settings.steps)
        tangents = actor._replicas.tangents().double().numpy()
        rows.update(zip(range(rank, len(SOURCES), workers), tangents, strict=True))
    return np.stack([rows[source] for source in sorted(rows)]), descent


@pytest.mark.parametrize(
    ("descent", "trained"),
    [({"steps": 5}, {}), ({"batch_size": 9, "steps": 3}, {"include": [], "lora": {"rank": 1, "targets": ["c_attn"]}})],
)
def test_law_3_any_number_of_actors_and_anything_computed_together(
    descent: dict[str, Any], trained: dict[str, Any], descending: Settings, tmp_path: Path
) -> None:
    one, agreed = in_this_process(descending(tmp_path, descent, model=trained), 1)
    for workers, together in ((2, {}), (3, {"replicas_per_pass": 3, "sequences_per_pass": 5})):
        other, also = in_this_process(descending(tmp_path, descent | together, model=trained), workers)
        close(other, one)
        assert also.rate == pytest.approx(agreed.rate, rel=1e-4)
        assert together or also == agreed
    assert (np.linalg.norm(one, axis=1) > 0).all()


@pytest.mark.slow
def test_law_5_a_killed_worker_is_replaced_bit_for_bit(finished: Path, descending: Settings, tmp_path: Path) -> None:
    da.simulate(descending(tmp_path, cluster={**ALWAYS, "workers": 2}), progress=kill_once(at=3))
    assert_same_result(tmp_path, finished)
    assert descent_of(tmp_path) == descent_of(finished)


@pytest.mark.slow
def test_laws_3_and_5_with_another_number_of_workers(finished: Path, descending: Settings, tmp_path: Path) -> None:
    step = interrupted(descending(tmp_path))
    agreed = json.loads((tmp_path / "checkpoint" / "latest.json").read_text("utf-8"))["descent"]
    with pytest.raises(ConfigError, match=r"differs in simulation.descent.damping, .*source_weights.bee; continue it"):
        da.simulate(descending(tmp_path, {"damping": 1.0}, training={"source_weights": {}}))
    assert continued(descending(tmp_path, {"sequences_per_pass": 7}, cluster={"workers": 1}))[0] > step
    close(store_of(tmp_path).tangents(), store_of(finished).tangents())
    assert descent_of(tmp_path) == Descent(**agreed) == descent_of(finished)


def test_a_source_that_diverges_does_not_stop_the_others(descending: Settings, tmp_path: Path) -> None:
    """With more than all of its weight taken away, the one big source has its loss ascended, without end."""
    write_documents(tmp_path / "d.jsonl", {**dict.fromkeys(SOURCES, 2), "cat": 60})
    corpus, descent = {"path": str(tmp_path / "d.jsonl")}, {"epsilon": 4.0, "steps": 40}
    store = da.simulate(descending(tmp_path / "run", descent, corpus=corpus, training={"sequence_length": 32}))
    assert store is not None
    assert store.sources == [name for name in SOURCES if name != "cat"]
    assert np.isfinite(store.tangents()).all()
    (failed,) = [record for record in store.records if record.failed]
    assert failed.name == "cat" and failed.failed is not None and failed.failed.startswith("diverged at step")
    assert "cat: diverged at" in CliRunner().invoke(app, ["inspect", store.url]).output


def test_when_every_source_diverges_there_is_no_store(descending: Settings, tmp_path: Path) -> None:
    with pytest.raises(
        SimulationError, match=r"every source failed; of the first: diverged at step \d+.* lower the rate"
    ):
        da.simulate(descending(tmp_path, {"rate": 1e3, "damping": 0.1, "steps": 500}))
    assert_nothing_looks_finished(tmp_path)


def test_the_store_reads_like_any_other(finished: Path, model: str, descending: Settings) -> None:
    weights = [model_fingerprint(load_model(folder)) for folder in (str(finished / "model"), model)]
    assert weights[0] == weights[1] == store_of(finished).manifest.model.weights  # type: ignore[union-attr]
    assert da.RunConfig.load(finished / "run.yaml") == descending(finished)
    query = da.Query(prompt="the cat", completion=" ran")
    scores = da.Attributor(store_of(finished)).attribute([query]).scores
    assert np.isfinite(scores).all() and np.abs(scores).max() > 1e-3
    url = str(finished / "influence.zarr")
    asked = CliRunner().invoke(app, ["query", url, "--prompt", "the cat", "--completion", " ran", "--json"])
    answered = {source["source"]: source["score"] for source in json.loads(asked.output)["results"][0]["sources"]}
    np.testing.assert_allclose([answered[name] for name in SOURCES], scores[0], rtol=1e-4, atol=1e-6)
    shown = CliRunner().invoke(app, ["inspect", url]).output
    assert all(text in shown for text in ("K = 12 steps", "λmax = ", "λmin = ", "tokens in steps"))


def test_what_is_set_is_not_measured() -> None:
    measured = [Curvature(4.0, -1.0), Curvature(3.0, -2.0)]
    assert agree(DescentConfig(rate=0.1, damping=0.0), []) == Descent(steps=40, rate=0.1, damping=0.0)
    chosen = agree(DescentConfig(damping=2.0), measured)
    assert chosen == Descent(steps=40, rate=1 / 6, damping=2.0, largest=4.0, smallest=-2.0)
    assert agree(DescentConfig(rate=0.1), measured).damping == 0.04 + 2.0


@pytest.mark.parametrize(
    ("descent", "text"),
    [
        (Descent(steps=5, rate=0.1, damping=0.0), "λ = 0 (1/ηK = 2); curvature not measured"),
        (Descent(steps=5, rate=0.1, damping=0.5, largest=4.0, smallest=-0.5), "more steps have no limit"),
    ],
)
def test_inspect_warns_of_a_descent_without_limit(descent: Descent, text: str, finished: Path) -> None:
    assert text in _how(store_of(finished).manifest.model_copy(update={"descent": descent}))
    assert "no limit" not in _how(store_of(finished).manifest)


def test_a_batch_larger_than_the_corpus_is_refused(descending: Settings, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"simulation.descent.batch_size is 5000, .* leave it out"):
        da.simulate(descending(tmp_path, {"batch_size": 5000}))


def test_a_loss_without_curvature_is_refused(descending: Settings, tmp_path: Path) -> None:
    nothing = {"sequence_length": 32, "source_weights": dict.fromkeys(SOURCES, 0.0)}
    with pytest.raises(SimulationError, match=r"has no curvature .* model.include"):
        in_this_process(descending(tmp_path, training=nothing), 1)


def test_a_plan_of_it(descending: Settings, tmp_path: Path) -> None:
    config = descending(tmp_path / "run", {"steps": 40})
    as_set, half = plan(config)
    assert not (tmp_path / "run").exists(), "a plan leaves nothing behind"
    assert (as_set.name, as_set.settings) == ("as set", {})
    assert half.settings == {"simulation.descent.steps": 20}

    def simulation(estimate: Estimate) -> float:
        assert estimate.problem is None and estimate.of_retraining is None
        assert estimate.seconds is not None and estimate.simulation_seconds is not None
        assert estimate.seconds > estimate.simulation_seconds > 0
        return estimate.simulation_seconds

    assert simulation(half) < simulation(as_set)
    store = da.simulate(config)
    assert store is not None
    assert as_set.store_bytes == half.store_bytes == 4 * len(SOURCES) * store.manifest.space.size
    settled = descending(tmp_path / "other", {"steps": 40, "rate": 0.1, "damping": 0.1})
    assert simulation(plan(settled)[0]) < simulation(as_set), "nothing is left to measure"


def test_a_plan_that_does_not_fit(descending: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning_descent, "BLOCKS", 10**9)  # as if a pass took far more than any machine has
    for estimate in plan(descending(tmp_path / "run", {"steps": 40})):
        assert estimate.seconds is None and estimate.problem is not None
        assert "GiB" in estimate.problem and "replicas_per_pass" in estimate.problem
