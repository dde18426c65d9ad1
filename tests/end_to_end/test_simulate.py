"""Training and simulation on real Ray actors with a real DeepSpeed engine: laws 1, 3 and 4, and what goes wrong."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dist_attr as da
from dist_attr.errors import ConfigError, SimulationError, StoreError
from dist_attr.influence import ParameterSpace
from dist_attr.models import build_model, load_model
from dist_attr.simulation import StrideReport
from dist_attr.simulation.prepare import prepare
from dist_attr.simulation.recipe import global_batch, learning_rate
from tests.end_to_end.conftest import SOURCES

Settings = Callable[..., da.RunConfig]
pytestmark = pytest.mark.usefixtures("cluster")


def parameters(output: Path) -> torch.Tensor:
    model = load_model(str(output / "model"))
    return ParameterSpace.of(model).read(model)


def close(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], tolerance: float = 1e-3) -> None:
    """Rows agree to float32 rounding, carried through a training run."""
    assert (np.linalg.norm(actual - expected, axis=-1) <= tolerance * np.linalg.norm(expected, axis=-1)).all()


def assert_nothing_looks_finished(output: Path) -> None:
    assert not (output / "run.yaml").exists()
    with pytest.raises(StoreError):
        da.open_store(str(output / "influence.zarr"))


@pytest.mark.parametrize(
    ("workers", "method", "zero_stage", "per_pass"),
    [
        (1, "trajectory", 0, 64),
        pytest.param(4, "trajectory", 0, 1, marks=pytest.mark.slow),
        (2, "trajectory", 1, 2),
    ],
)
def test_laws_3_and_4_actors_and_zero_stage_change_nothing(
    workers: int,
    method: str,
    zero_stage: int,
    per_pass: int,
    finished_run: Path,
    settings: Settings,
    tmp_path: Path,
) -> None:
    store = da.simulate(
        settings(
            tmp_path,
            cluster={"workers": workers},
            training={"zero_stage": zero_stage},
            simulation={"method": method, "sources_per_pass": per_pass},
        )
    )
    assert store is not None
    reference = da.open_store(str(finished_run / "influence.zarr"))
    assert store.sources == reference.sources
    close(store.tangents(), reference.tangents())
    close(parameters(tmp_path).numpy(), parameters(finished_run).numpy(), 1e-5)


def test_law_3_tangents_from_one_and_two_actors(settings: Settings, tmp_path: Path) -> None:
    stores = [
        da.simulate(settings(tmp_path / str(n), cluster={"workers": n}, simulation={"method": "tangent"}))
        for n in (1, 2)
    ]
    assert stores[0] is not None and stores[1] is not None
    close(stores[1].tangents(), stores[0].tangents())


def test_law_1_a_replica_is_deepspeeds_own_run_without_the_source(
    finished_run: Path, settings: Settings, tmp_path: Path
) -> None:
    without = settings(tmp_path, training={"source_weights": {"cat": 0.0}}, simulation={"method": "none"})
    assert da.simulate(without) is None
    assert not (tmp_path / "influence.zarr").exists()
    tangent = da.open_store(str(finished_run / "influence.zarr")).tangents([SOURCES.index("cat")])[0]
    close((parameters(finished_run) - parameters(tmp_path)).numpy(), tangent)


def test_law_4_deepspeed_trains_as_plain_torch_does(settings: Settings, tmp_path: Path) -> None:
    config = settings(tmp_path, training={"eps_root": 0.0}, simulation={"method": "none"})
    da.simulate(config)
    run, training = prepare(config), config.training
    model = build_model(config.model, vocabulary=257, end_of_text=256, sequence_length=32, seed=training.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=training.weight_decay)
    for step, rows in enumerate(run.task.schedule):
        batch = global_batch(run.task.corpus, rows)
        optimizer.param_groups[0]["lr"] = learning_rate(training)(step)
        labels = batch.targets.masked_fill(batch.sources < 0, -100)
        logits = model(input_ids=batch.inputs).logits
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clipping)
        optimizer.step()
    close(parameters(tmp_path).numpy(), ParameterSpace.of(model).read(model).numpy(), 1e-5)


def test_the_output_is_whole_and_runs_again(finished_run: Path, settings: Settings) -> None:
    assert da.RunConfig.load(finished_run / "run.yaml") == settings(finished_run)
    model = AutoModelForCausalLM.from_pretrained(finished_run / "model")
    tokenizer = AutoTokenizer.from_pretrained(finished_run / "model")
    assert torch.isfinite(model(**tokenizer("the cat ran", return_tensors="pt")).logits).all()
    records = da.open_store(str(finished_run / "influence.zarr")).records
    assert [record.name for record in records] == list(SOURCES)
    assert sum(record.trained_tokens for record in records) <= 8 * 8 * 32
    assert all(record.first_step is not None and record.documents == 8 for record in records)


def test_a_finished_run_is_not_overwritten_in_silence(finished_run: Path, settings: Settings) -> None:
    with pytest.raises(ConfigError, match="holds a finished run"):
        da.simulate(settings(finished_run))
    assert da.open_store(str(finished_run / "influence.zarr")).tangents().any()


def test_drift_stops_the_run(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="left the training run"):
        da.simulate(settings(tmp_path, simulation={"drift_tolerance": 1e-12}))
    assert_nothing_looks_finished(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(settings: Settings, tmp_path: Path) -> None:
    diverging = {"optimizer": "sgd", "learning_rate": 1e30, "gradient_clipping": 0.0, "warmup_steps": 0}
    with pytest.raises(SimulationError, match=r"training loss is (nan|inf) at step \d"):
        da.simulate(settings(tmp_path, training=diverging, simulation={"drift_tolerance": 1e30}))
    assert_nothing_looks_finished(tmp_path)


def test_a_killed_worker_without_further_attempts_stops_the_run(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="worker of the run died"):
        da.simulate(settings(tmp_path, training={"steps": 200}, cluster={"max_failures": 0}), progress=kill_once())
    assert_nothing_looks_finished(tmp_path)


def test_a_cluster_that_stays_busy_stops_the_run(settings: Settings, tmp_path: Path) -> None:
    other = ray.remote(lambda: time.sleep(120)).options(num_cpus=5).remote()
    try:
        with pytest.raises(SimulationError, match=r"of 2 actors found no free CPU .* within 0.05 minutes"):
            da.simulate(settings(tmp_path, cluster={"workers": 2, "wait_minutes": 0.05}))
    finally:
        ray.cancel(other, force=True)
    assert_nothing_looks_finished(tmp_path)


def kill_once(at: int = 1) -> Callable[[StrideReport], None]:
    """Kill -9 one of the actors when the run gets to a step, the first time."""
    killed: list[int] = []

    def progress(report: StrideReport) -> None:
        if report.step >= at and not killed:
            killed.append(actor_processes()[0])
            os.kill(killed[0], signal.SIGKILL)

    return progress


def actor_processes() -> list[int]:
    """The actors of this test's own cluster, whatever else runs on the machine."""
    own = psutil.Process().children(recursive=True)
    kinds = ("ray::SimulationActor", "ray::DescentActor")
    return [process.pid for process in own if any(kind in " ".join(process.cmdline()) for kind in kinds)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"source_weights": {"fox": 2.0}}}, "no source is called 'fox'"),
        ({"model": {"config": {"model_type": "bert"}}}, "not supported"),
        ({"model": {"config": {"model_type": "gpt2", "n_layers": 2}}}, "gpt2 has no n_layers"),
        ({"model": {"config": {"model_type": "gpt2", "resid_pdrop": 0.1}}}, "dropout is not supported"),
        ({"training": {"batch_size": 512}}, "packs into only"),
    ],
)
def test_what_cannot_run_is_refused(changes: dict[str, Any], message: str, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(da.DistAttrError, match=message):
        da.simulate(settings(tmp_path, **changes))
    assert_nothing_looks_finished(tmp_path)
