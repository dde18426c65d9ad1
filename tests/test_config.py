"""Settings: defaults that work, unknown keys refused, errors that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import dist_attr as da
from dist_attr.config import DescentConfig, absolute_url
from dist_attr.errors import ConfigError

FINISHED = {"model": {"path": "some/model"}, "simulation": {"method": "checkpoint"}}


def test_the_defaults_are_a_whole_run() -> None:
    config = da.RunConfig()
    assert config.corpus.example == "sotu" and config.corpus.source_field == "president"
    assert config.tokenizer == "bytes"
    assert config.model.config == {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4}
    assert config.simulation.method == "auto"


def test_a_resolved_run_reads_back_unchanged(tmp_path: Path) -> None:
    config = da.RunConfig.parse(
        {"tokenizer": {"train": {"vocabulary": 300}}, "training": {"source_weights": {"a": 1.5}}, "output": "x"}
    )
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    assert da.RunConfig.load(tmp_path / "run.yaml") == config


def test_a_checkpoint_run_writes_only_what_it_uses_and_reads_back_unchanged(tmp_path: Path) -> None:
    config = da.RunConfig.parse(
        {
            "model": {"path": "some/model"},
            "training": {"source_weights": {"a": 0.5}, "sequence_length": 32},
            "simulation": {"method": "checkpoint", "descent": {"damping": 0.5}},
            "cluster": {"workers": 3},  # no divisor of training.batch_size, which has no meaning here
        }
    )
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    assert da.RunConfig.load(tmp_path / "run.yaml") == config
    values = yaml.safe_load(config.to_yaml())
    assert set(values["training"]) == {"sequence_length", "seed", "source_weights"}
    assert set(values["simulation"]) == {"method", "descent"}
    assert config.steps == 40 and da.RunConfig().steps == da.RunConfig().training.steps
    assert da.RunConfig().simulation.descent is None


def test_checkpoint_needs_no_settings_of_its_own() -> None:
    config = da.RunConfig.parse({"model": {"path": "m"}, "simulation": {"method": "checkpoint"}})
    assert config.simulation.descent == DescentConfig()


def test_a_model_path_brings_its_tokenizer() -> None:
    assert da.RunConfig.parse({"model": {"path": "some/model"}}).tokenizer == "some/model"
    assert da.RunConfig.parse({"model": {"path": "some/model"}, "tokenizer": "bytes"}).tokenizer == "bytes"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        da.RunConfig().training.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trainin": {}}, "trainin: Extra inputs"),
        ({"training": {"step": 3}}, "training.step: Extra inputs"),
        ({"training": {"steps": 0}}, "training.steps"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate"),
        ({"training": {"zero_stage": 4}}, "training.zero_stage"),
        ({"training": {"precision": "bf16"}}, "bf16 needs zero_stage"),
        ({"training": {"optimizer": "sgd", "nesterov": True}}, "nesterov needs momentum"),
        ({"training": {"no_decay": ["("]}}, "not a regular expression"),
        ({"model": {"lora": {"rank": 2}, "include": ["wte"]}}, "exactly the adapters are trained"),
        ({"simulation": {"window": 200}}, "longer than training.steps"),
        ({"simulation": {"horizon": 5}}, "belong to method: tangent"),
        ({"simulation": {"method": "tangent", "central": True}}, "belong to method: trajectory"),
        ({"simulation": {"descent": {"steps": 3}}}, "descent belongs to method: checkpoint"),
        ({"simulation": {"method": "none", "descent": {"steps": 3}}}, "descent belongs to method: checkpoint"),
        ({"simulation": {"method": "checkpoint"}}, r"name its folder as model\.path"),
        (
            {**FINISHED, "simulation": {"method": "checkpoint", "epsilon": 0.5, "window": 3}},
            r"epsilon, window: method: checkpoint follows no training run, and has only .*descent \(steps, rate,",
        ),
        ({**FINISHED, "training": {"steps": 9, "zero_stage": 2}}, r"leave out training\.steps, zero_stage \("),
        (
            {**FINISHED, "simulation": {"method": "checkpoint", "descent": {"rate": 0}}},
            "simulation.descent.rate",
        ),
        ({"training": {"batch_size": 12, "accumulation_steps": 4}}, "must be a multiple of cluster.workers"),
        ({"training": {"steps": 5, "warmup_steps": 5}}, "warmup_steps .* smaller than steps"),
        ({"training": {"momentum": 0.9}}, "momentum belongs to sgd"),
        ({"training": {"eps": 0, "eps_root": 0}}, "eps or eps_root"),
        ({"training": {"betas": [0.9, 1.0]}}, "betas"),
        ({"training": {"batch_size": 3}}, "multiple of cluster.workers"),
        ({"corpus": {"path": "a.jsonl", "example": "sotu"}}, "either path or example"),
        ({"corpus": {"example": "sotu", "source_field": "year"}}, "'president' and 'party'"),
        ({"model": {"path": "a", "config": {"model_type": "gpt2"}}}, "either config or path"),
        ({"model": {"config": {"n_layer": 2}}}, "needs a model_type"),
        ({"simulation": {"method": "magic"}}, "simulation.method"),
        ({"training": {"source_weights": {"a": 0.0}}}, "gives a a weight below simulation.epsilon .1., and a replica"),
        ({"simulation": {"epsilon": 0}}, "simulation.epsilon"),
        ({"simulation": {"memory_gib": 0}}, "simulation.memory_gib"),
        ({"simulation": {"parking": "memory://folder"}}, "simulation.parking.* a folder of each machine"),
        ([1, 2], "valid dictionary"),
    ],
)
def test_what_does_not_fit_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        da.RunConfig.parse(values)


@pytest.mark.parametrize("text", ["a: [", "\xff", None])
def test_a_file_that_cannot_be_read_is_named(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        da.RunConfig.load(path)


def test_local_paths_are_made_absolute_and_urls_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_url("runs/demo") == absolute_url(f"file://{tmp_path}/runs/demo") == f"{tmp_path}/runs/demo"
    assert absolute_url("memory://runs/demo") == "memory://runs/demo"
