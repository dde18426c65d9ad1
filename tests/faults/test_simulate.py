"""Runs of which something fails: they go on from their last checkpoint, and the store is the same, bit for bit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import dist_attr as da
from dist_attr.errors import StoreError
from dist_attr.models import download_folder, load_model, model_fingerprint
from tests.disk import Disk
from tests.faults.commands import OUTAGE, Command, down
from tests.faults.conftest import whole
from tests.nodes import Nodes
from tests.s3_server import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.faults]
STEPS = 24


def run_command(nodes: Nodes, folder: Path, material: str, output: str) -> Command:
    """A run on both nodes that keeps a checkpoint after every stride."""
    (folder / "run.yaml").write_text(
        yaml.safe_dump(
            {
                "corpus": {"path": f"{material}/documents.jsonl"},
                "model": {"config": {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2}},
                "training": {
                    "steps": STEPS,
                    "batch_size": 8,
                    "sequence_length": 32,
                    "learning_rate": 0.01,
                    "schedule": "cosine",
                },
                "simulation": {"method": "trajectory", "sources_per_pass": 2},
                "store": {"codec": "float32"},
                "cluster": {"workers": 2, "checkpoint_minutes": 1e-9},
                "output": output,
            }
        )
    )
    return Command(nodes, folder, "simulate", str(folder / "run.yaml"), "--json")


def steps(command: Command) -> list[int]:
    """The steps that its strides ended with; what it prints is JSON, every line of it."""
    whole, _, _ = command.out.rpartition("\n")
    return [facts["step"] for facts in map(json.loads, whole.splitlines()) if "step" in facts]


def under_way(command: Command) -> None:
    """Waits until the checkpoint after the first stride is there."""
    command.until(lambda: any(step >= 3 for step in steps(command)), "three steps")
    assert steps(command)[-1] < STEPS, "it was done before it was disturbed"


@pytest.fixture(scope="module")
def simulated(cluster: Nodes, material: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a run that nothing happened to."""
    output = f"{material}/run-undisturbed"
    command = run_command(whole(cluster), tmp_path_factory.mktemp("undisturbed"), material, output)
    under_way(command)
    assert len(set(cluster.actors("SimulationActor").values())) == 2
    command.succeeded()
    return output


@pytest.fixture
def output(material: str, request: pytest.FixtureRequest) -> str:
    """Where a test has its run."""
    return f"{material}/{request.node.name.replace('[', '-').rstrip(']')}"


Start = Callable[[], Command]


@pytest.fixture
def start(nodes: Nodes, material: str, output: str, tmp_path: Path) -> Start:
    """Starts the test's run; the second time it is the same command."""
    return lambda: run_command(nodes, tmp_path, material, output)


def assert_same(output: str, simulated: str) -> None:
    """Tangents and model, bit for bit, and nothing is left of the checkpoints."""
    one, other = (da.open_store(f"{url}/influence.zarr").tangents() for url in (output, simulated))
    assert np.array_equal(one, other)
    prints = []
    for url in (output, simulated):
        with download_folder(f"{url}/model") as folder:
            prints.append(model_fingerprint(load_model(folder)))
    assert prints[0] == prints[1]


def assert_goes_on(command: Command) -> None:
    """From a checkpoint, not from the beginning, and to the end."""
    command.succeeded()
    assert steps(command)[0] > 1 and steps(command)[-1] == STEPS


def assert_unfinished(output: str) -> None:
    """There is nothing that could be taken for a result."""
    with pytest.raises(StoreError):
        da.open_store(f"{output}/influence.zarr")


def test_a_node_that_is_killed_is_waited_for(start: Start, nodes: Nodes, output: str, simulated: str) -> None:
    command = start()
    under_way(command)
    nodes.kill()
    nodes.add()
    command.succeeded()
    assert 1 not in steps(command)[1:], "it began anew instead of going on"
    assert_same(output, simulated)


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "gone"])
def test_s3_that_is_down_for_half_a_minute_costs_time(
    start: Start, mortal: S3Server, output: str, simulated: str, silent: bool
) -> None:
    command = start()
    under_way(command)
    with down(mortal, silent=silent):
        time.sleep(OUTAGE)
        assert command.running, command.err
    command.succeeded()
    assert steps(command) == sorted(set(steps(command))), "something was computed twice"
    assert_same(output, simulated)


def test_a_driver_that_is_killed_is_started_again(start: Start, output: str, simulated: str) -> None:
    command = start()
    under_way(command)
    command.kill()
    assert_unfinished(output)
    assert_goes_on(start())
    assert_same(output, simulated)


def test_a_head_that_is_lost_ends_it_and_the_next_cluster_goes_on(
    start: Start, nodes: Nodes, output: str, simulated: str
) -> None:
    command = start()
    under_way(command)
    nodes.kill_head()
    assert command.ended() != 0
    assert_unfinished(output)
    nodes.start_head()
    nodes.add()
    assert_goes_on(start())
    assert_same(output, simulated)


def test_a_disk_that_is_full_says_so(nodes: Nodes, material: str, disk: Disk, tmp_path: Path, simulated: str) -> None:
    output = str(disk.folder / "run")
    command = run_command(nodes, tmp_path, material, output)
    under_way(command)
    disk.fill()
    said = command.failed()
    assert f"cannot write the checkpoint {output}" in said and "no room" in said and "make room" in said
    assert_unfinished(output)
    disk.make_room()
    assert_goes_on(run_command(nodes, tmp_path, material, output))
    assert_same(output, simulated)


def test_a_node_whose_disk_fills_up_goes_on(start: Start, cramped: Disk, output: str, simulated: str) -> None:
    command = start()
    under_way(command)
    cramped.fill()
    command.succeeded()
    assert_same(output, simulated)
