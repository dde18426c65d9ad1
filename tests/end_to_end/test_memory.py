"""Memory of a run: pass sizes that are measured and kept, states that are parked, and what does not fit at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dist_attr as da
from dist_attr.errors import SimulationError
from dist_attr.simulation import StrideReport
from tests.end_to_end.test_resume import assert_same_result, interrupted
from tests.end_to_end.test_simulate import Settings, assert_nothing_looks_finished

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.mark.slow
def test_law_5_the_measured_size_of_a_pass_is_kept(settings: Settings, tmp_path: Path) -> None:
    config = settings(tmp_path, simulation={"sources_per_pass": None})
    interrupted(config)
    file = tmp_path / "checkpoint" / "latest.json"
    checkpoint = json.loads(file.read_text(encoding="utf-8"))
    simulation = checkpoint["simulation"]
    assert simulation["sources_per_pass"] in (1, 2, 4)
    # One that is not tried when it is measured anew.
    file.write_text(json.dumps({**checkpoint, "simulation": {**simulation, "sources_per_pass": 3}}), encoding="utf-8")
    reports: list[StrideReport] = []
    da.simulate(config, progress=reports.append)
    said = reports[0].simulation
    assert said is not None and said.sources_per_pass == 3 and said.parked is None
    assert said.source_step_seconds > 0 and said.memory_bytes >= 4 * said.source_bytes > 0
    assert da.RunConfig.load(tmp_path / "run.yaml").simulation.sources_per_pass == 3
    store = da.open_store(str(tmp_path / "influence.zarr"))
    assert store.manifest.run.simulation.sources_per_pass == 3


@pytest.mark.slow
def test_laws_3_and_5_parked_states_change_nothing(settings: Settings, tmp_path: Path) -> None:
    """The run and two replicas of each of five sources, 10 MiB each, do not fit with a pass into 45 MiB."""
    folder = tmp_path / "parking"
    folder.mkdir()
    rooms: dict[str, Any] = {
        "cluster": {"workers": 1},
        "model": {"config": {"model_type": "gpt2", "n_layer": 1, "n_embd": 256, "n_head": 2}},
        "training": {"steps": 4, "batch_size": 2, "sequence_length": 8, "warmup_steps": 0},
    }
    simulation = {"method": "trajectory", "central": True, "sources_per_pass": 1}
    da.simulate(settings(tmp_path / "whole", **rooms, simulation=simulation))
    tight = {**simulation, "memory_gib": 0.045, "parking": str(folder)}
    reports: list[StrideReport] = []
    config = settings(tmp_path / "parked", **rooms, simulation=tight)
    interrupted(config, step=1)
    da.simulate(config, progress=reports.append)
    said = reports[0].simulation
    assert said is not None and said.parked == str(folder)
    assert said.parked_bytes == 11 * said.source_bytes // 2 > 0.045 * 2**30 > said.memory_bytes
    assert_same_result(tmp_path / "parked", tmp_path / "whole")
    assert list(folder.iterdir()) == []


def test_a_pass_that_does_not_fit_is_an_error_before_training(settings: Settings, tmp_path: Path) -> None:
    reports: list[StrideReport] = []
    with pytest.raises(SimulationError, match=r"over 2 source\(s\) needs .* and an actor has 1e-05 GiB"):
        da.simulate(settings(tmp_path, simulation={"memory_gib": 1e-5}), progress=reports.append)
    assert reports == []
    assert_nothing_looks_finished(tmp_path)
