"""Law 5: interrupted equals uninterrupted, bit for bit with the same number of workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dist_attr as da
from dist_attr.config import SimulationConfig
from dist_attr.errors import ConfigError, ModelError, SimulationError
from dist_attr.influence import SourceState, TrainState
from dist_attr.models import load_model, model_fingerprint
from dist_attr.simulation import StrideReport
from dist_attr.simulation.checkpoint import Checkpoint, Checkpoints, read_state, write_state
from tests.end_to_end.test_simulate import Settings, assert_nothing_looks_finished, close, kill_once

ALWAYS = {"checkpoint_minutes": 1e-9}  # after every stride


def interrupt_at(step: int) -> Callable[[StrideReport], None]:
    def progress(report: StrideReport) -> None:
        if report.step >= step:
            raise KeyboardInterrupt

    return progress


def interrupted(config: da.RunConfig, step: int = 3) -> int:
    """Start a run and press Ctrl-C; the step it can continue from."""
    with pytest.raises(KeyboardInterrupt):
        da.simulate(config, progress=interrupt_at(step))
    output = Path(config.output)
    assert_nothing_looks_finished(output)
    (folder,) = (output / "checkpoint").glob("step-*")
    return int(folder.name.removeprefix("step-"))


def continued(config: da.RunConfig) -> list[int]:
    """Finish a run; the steps its strides ended with."""
    steps: list[int] = []
    da.simulate(config, progress=lambda report: steps.append(report.step))
    assert not (Path(config.output) / "checkpoint").exists()
    return steps


def assert_same_result(one: Path, other: Path) -> None:
    """The same tangents and the same model, bit for bit."""
    stores = [da.open_store(str(output / "influence.zarr")) for output in (one, other)]
    assert np.array_equal(stores[0].tangents(), stores[1].tangents())
    models = [model_fingerprint(load_model(str(output / "model"))) for output in (one, other)]
    assert models[0] == models[1]


@pytest.mark.usefixtures("cluster")
def test_law_5_after_ctrl_c_it_continues_bit_for_bit(finished_run: Path, settings: Settings, tmp_path: Path) -> None:
    config = settings(tmp_path, simulation={"method": "auto"})  # which chooses the trajectory, both times
    step = interrupted(config)
    assert 3 <= step < 8
    other = settings(tmp_path, training={"learning_rate": 0.02}, simulation={"method": "auto", "window": 5})
    with pytest.raises(ConfigError, match=r"differs in simulation.window, training.learning_rate; continue it"):
        da.simulate(other)
    assert continued(config)[0] > step
    assert_same_result(tmp_path, finished_run)
    assert da.RunConfig.load(tmp_path / "run.yaml").simulation.method == "trajectory"


@pytest.mark.usefixtures("cluster")
def test_law_5_a_killed_worker_is_replaced_bit_for_bit(finished_run: Path, settings: Settings, tmp_path: Path) -> None:
    steps: list[int] = []
    kill = kill_once(at=3)

    def progress(report: StrideReport) -> None:
        steps.append(report.step)
        kill(report)

    da.simulate(settings(tmp_path, cluster=ALWAYS), progress=progress)
    assert 1 not in steps[1:], "it began anew instead of continuing"
    assert_same_result(tmp_path, finished_run)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("training", "simulation"),
    [
        ({"zero_stage": 3}, {"method": "tangent", "horizon": 2, "stride": 2, "curvature_share": 0.5}),
        (
            {"zero_stage": 2, "precision": "bf16", "accumulation_steps": 2},
            {"method": "trajectory", "window": 4, "central": True},
        ),
    ],
)
def test_laws_3_and_5_with_another_number_of_workers(
    training: dict[str, Any], simulation: dict[str, Any], settings: Settings, tmp_path: Path
) -> None:
    rooms: dict[str, Any] = {"training": training, "simulation": simulation}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    da.simulate(settings(whole, **rooms))
    interrupted(settings(broken, **rooms), step=6)
    continued(settings(broken, **rooms, cluster={"workers": 1}))
    stores = [da.open_store(str(output / "influence.zarr")).tangents() for output in (whole, broken)]
    close(stores[1], stores[0])


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_interrupted_run_is_replaced_only_by_one_that_can_be_trained(settings: Settings, tmp_path: Path) -> None:
    interrupted(settings(tmp_path))
    with pytest.raises(ModelError, match="gpt2 has no n_layers"):
        da.simulate(settings(tmp_path, model={"config": {"model_type": "gpt2", "n_layers": 2}}), overwrite=True)
    assert (tmp_path / "checkpoint" / "latest.json").exists()
    steps: list[int] = []
    da.simulate(settings(tmp_path, training={"steps": 4}), overwrite=True, progress=lambda r: steps.append(r.step))
    assert steps[0] == 1
    assert not (tmp_path / "checkpoint").exists()


def test_a_checkpoint_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text("a file where the folder should be", encoding="utf-8")
    state = SourceState(TrainState(torch.arange(3.0), ()))
    with pytest.raises(SimulationError, match=r"cannot write the checkpoint .*make room or mend the access"):
        write_state(f"{tmp_path}/checkpoint/step-00000003", "source-0", state)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    state = TrainState(torch.arange(3.0), (torch.ones(3), torch.zeros(3)))
    folder = f"{tmp_path}/checkpoint/step-00000003"
    written = dict([write_state(folder, "source-0", SourceState(state, last_seen=2))])
    checkpoint = Checkpoint(
        step=3,
        workers=1,
        folder="step-00000003",
        files=written,
        identity={"training.steps": 8},
        initial_model="m",
        simulation=SimulationConfig(),
    )
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.finish(checkpoint)
    assert checkpoints.latest() == checkpoint
    read = read_state(checkpoints.url, checkpoint, "source-0")
    assert torch.equal(read.state.theta, state.theta) and read.last_seen == 2 and len(read.state.slots) == 2
    file = tmp_path / "checkpoint" / "step-00000003" / "source-0.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(SimulationError, match=r"damaged: .*source-0.safetensors changed"):
        read_state(checkpoints.url, checkpoint, "source-0")
    file.unlink()
    with pytest.raises(SimulationError, match=r"lacks .*source-0"):
        read_state(checkpoints.url, checkpoint, "source-0")
    (tmp_path / "checkpoint" / "latest.json").write_text("{", encoding="utf-8")
    with pytest.raises(SimulationError, match=r"latest.json cannot be read"):
        checkpoints.latest()


def test_law_5_the_driver_and_everything_else_killed(finished_run: Path, settings: Settings, tmp_path: Path) -> None:
    """The command as users run it, in a session of its own, all of which is killed at once."""
    config = settings(tmp_path / "run", cluster=ALWAYS)
    (tmp_path / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "dist_attr", "simulate", str(tmp_path / "run.yaml"), "--json"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    first = start()
    assert first.stdout is not None
    for line in first.stdout:
        if json.loads(line)["step"] >= 3:
            break
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert_nothing_looks_finished(tmp_path / "run")
    second = start()
    printed, _ = second.communicate(timeout=180)
    assert second.returncode == 0
    assert json.loads(printed.splitlines()[0])["step"] > 1
    assert_same_result(tmp_path / "run", finished_run)


@pytest.mark.slow
def test_law_5_a_killed_node_is_replaced_bit_for_bit(finished_run: Path, settings: Settings, tmp_path: Path) -> None:
    config = settings(tmp_path / "run", cluster=ALWAYS)
    (tmp_path / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "tests.end_to_end.node_loss", str(tmp_path / "run.yaml"), "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    # Ray prints to the same stream when it goes.
    steps = next(json.loads(line)["steps"] for line in done.stdout.splitlines() if line.startswith('{"steps"'))
    assert 1 not in steps[1:], "it began anew instead of continuing"
    assert_same_result(tmp_path / "run", finished_run)
