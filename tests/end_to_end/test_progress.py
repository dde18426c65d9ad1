"""What machines are told while a run goes on: JSON lines, TensorBoard's event files, Ray's metrics."""

from __future__ import annotations

import json
import re
import struct
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import ray
from tensorboardX.proto.event_pb2 import Event
from typer.testing import CliRunner

from dist_attr.cli import app
from tests.end_to_end.test_simulate import Settings


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """By name and step, what the one event file of a folder holds: records of length, checksum, data, checksum."""
    (file,) = folder.glob("events.out.tfevents.*")
    data, at, found = file.read_bytes(), 0, dict[str, dict[int, float]]()
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event: Any = Event.FromString(data[at + 12 : at + 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
        at += 12 + length + 4
    return found


def published(name: str, run: str, last: float) -> float | None:
    """What the node's metrics endpoint says, once it is what was last reported.

    Ray gathers the processes' metrics every few seconds, so that it may say for a while what was so in the middle.
    """
    node, found = ray.nodes()[0], None
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    for _ in range(60):
        text = urllib.request.urlopen(url, timeout=10).read().decode()
        match = re.search(rf'^ray_{name}{{[^}}]*run="{re.escape(run)}"[^}}]*}} (\S+)$', text, re.MULTILINE)
        if match and (found := float(match[1])) == pytest.approx(last):
            break
        time.sleep(0.5)
    return found


@pytest.mark.usefixtures("cluster")
def test_the_same_figures_everywhere(settings: Settings, tmp_path: Path) -> None:
    config = settings(tmp_path / "run")
    (tmp_path / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    command = ["simulate", str(tmp_path / "run.yaml"), "--json", "--tensorboard", str(tmp_path / "events")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    *strides, last = map(json.loads, result.stdout.splitlines())
    assert last["store"].endswith("influence.zarr")
    losses = {stride["step"]: stride["loss"] for stride in strides}
    assert max(losses) == strides[-1]["steps"] == config.training.steps
    written = scalars(tmp_path / "events")
    assert written["run/loss"] == pytest.approx(losses)
    assert set(written) == {"run/loss", "run/drift", "run/replica_steps_per_second"}
    for name, value in {"dist_attr_step": config.training.steps, "dist_attr_loss": strides[-1]["loss"]}.items():
        assert published(name, config.output, value) == pytest.approx(value)
