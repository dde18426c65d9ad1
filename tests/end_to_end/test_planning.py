"""A plan from real actors: what it says follows from the run and the machine, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dist_attr.cli import app
from dist_attr.models import build_model
from dist_attr.simulation import plan
from tests.end_to_end.conftest import SOURCES
from tests.end_to_end.test_simulate import Settings

pytestmark = pytest.mark.usefixtures("cluster")


def planned(config: Path) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["plan", str(config), "--json"])
    assert result.exit_code == 0, result.output
    estimates: list[dict[str, Any]] = json.loads(result.stdout)
    return estimates


def test_a_plan(settings: Settings, tmp_path: Path) -> None:
    config = settings(tmp_path / "run", simulation={"method": "auto", "sources_per_pass": None})
    (tmp_path / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    estimates = {estimate["name"]: estimate for estimate in planned(tmp_path / "run.yaml")}
    assert not (tmp_path / "run").exists(), "a plan leaves nothing behind"
    assert "as set (trajectory)" in estimates, "all sources are in every batch"
    model = build_model(config.model, vocabulary=257, end_of_text=256, sequence_length=32, seed=0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lora = estimates.pop("LoRA, rank 8 (trajectory)")
    assert {estimate["store_bytes"] for estimate in estimates.values()} == {4 * len(SOURCES) * parameters}
    assert 0 < lora["store_bytes"] < 4 * len(SOURCES) * parameters
    for estimate in (*estimates.values(), lora):
        assert estimate["problem"] is None and estimate["device"] == "CPU"
        assert estimate["seconds"] > estimate["simulation_seconds"] > 0
        assert estimate["device_hours"] == pytest.approx(2 * estimate["seconds"] / 3600)
        assert estimate["sources_per_pass"] in (1, 2, 3, 4)
        assert estimate["memory_bytes"] >= 3 * 3 * estimate["store_bytes"] / len(SOURCES), "three states of three slots"
        assert estimate["query_seconds"] > 0 and estimate["of_retraining"] > 0


def test_what_does_not_fit_is_said(settings: Settings, tmp_path: Path) -> None:
    estimates = plan(settings(tmp_path, model={"lora": {"rank": 2}}, simulation={"memory_gib": 1e-6}))
    assert estimates[0].name == "as set"
    for estimate in estimates:
        assert estimate.seconds is None
        assert "simulation.memory_gib" in str(estimate.problem)
