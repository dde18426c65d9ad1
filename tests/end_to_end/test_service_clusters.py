"""The service as an operator runs it: from a Serve config file, and on nodes that die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

import dist_attr as da
from dist_attr.corpus import Document
from tests.end_to_end.conftest import free_port
from tests.readout.test_basis import queries
from tests.stores import make_store

pytestmark = pytest.mark.slow
NAMES = ["ant", "bee", "cat", "dog"]
CONFIG = Path(__file__).parents[2] / "cluster" / "serve.yaml"


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not {what} within {seconds:.0f} s"
        time.sleep(0.5)


def identity(place: str) -> str | None:
    try:
        answer = httpx.get(f"{place}/v1/store", timeout=30)
    except httpx.HTTPError:
        return None
    return str(answer.json()["store"]["identity"]) if answer.status_code == 200 else None


def test_from_a_config_file_and_another_one(tmp_path: Path) -> None:
    stores = [make_store(tmp_path / name, NAMES, context=48, seed=seed) for seed, name in enumerate("ab")]
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    port = config["http_options"]["port"] = free_port()
    dashboard, file, place = free_port(), tmp_path / "serve.yaml", f"http://127.0.0.1:{port}"

    def write(store: da.InfluenceStore) -> None:
        config["applications"][0]["args"]["store"] = store.url
        file.write_text(yaml.safe_dump(config))

    # Otherwise a token that somebody made on this machine once would be asked for.
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}

    bin_folder = Path(sys.executable).parent
    gcs = free_port()
    address = f"127.0.0.1:{gcs}"
    head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", "--num-cpus=2", "--dashboard-host=127.0.0.1"]
    started = subprocess.Popen(
        [bin_folder / "ray", "start", "--block", "--node-ip-address=127.0.0.1", *head], env=environment
    )
    try:
        write(stores[0])
        deploy = [str(bin_folder / "serve"), "deploy", str(file), "-a", f"http://127.0.0.1:{dashboard}"]

        def deployed() -> bool:
            done = subprocess.run(deploy, capture_output=True, timeout=60, check=False, env=environment)
            return done.returncode == 0

        until(deployed, 90, f"deployed to {address}")
        until(lambda: identity(place) == stores[0].manifest.identity, 150, "served")
        asked = queries(3, seed=1)
        body = {"queries": [query.model_dump() for query in asked]}
        answer = httpx.post(f"{place}/v1/attributions", json=body, timeout=60).json()
        local = da.Attributor(stores[0]).attribute(asked)
        for i, result in enumerate(answer["results"]):
            served = {source["source"]: source["score"] for source in result["sources"]}
            np.testing.assert_allclose([served[name] for name in NAMES], local.scores[i], rtol=1e-3, atol=1e-4)
        write(stores[1])
        assert deployed()
        seen = set()
        end = time.monotonic() + 150
        while stores[1].manifest.identity not in seen:
            found = identity(place)
            assert found is not None, "there was a pause"
            seen.add(found)
            assert time.monotonic() < end
    finally:
        started.terminate()
        started.wait(60)


def test_a_node_that_dies_under_load(tmp_path: Path) -> None:
    make_store(tmp_path, NAMES, context=48)
    command = [sys.executable, "-m", "tests.end_to_end.service_node_loss", str(tmp_path / "influence.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))  # Ray prints too
    assert found["before"] >= 20 and found["after"] >= 20
    # Of four clients, each lost one answer at most: if the ingress was on that node, what it was answering.
    assert sum(found["counts"].values()) - found["counts"]["right"] <= 4, found
    assert all(said.startswith(("right", "500", "503", "lost")) for said in found["counts"]), found


PROBED_ON_GPUS = """
import sys

import ray

import dist_attr as da
from dist_attr.config import ProbeConfig, ServiceConfig
from dist_attr.serving import deploy, stop

# Ray takes our word for the GPUs; what matters is whether it finds room for the actors.
ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level=40)
probing = ProbeConfig(template="{document}{prompt}", window=16)
deploy(ServiceConfig(store=sys.argv[1], shards=2, cpus=0.5, gpus=1, probing=probing), port=int(sys.argv[2]))
with da.Client(f"http://127.0.0.1:{sys.argv[2]}", retries=60) as client:
    [result] = client.probe(da.Query(completion="ant")).results
    print("probed", len(result.sources), "free", ray.available_resources().get("GPU", 0.0))
stop()
"""


def test_a_prober_needs_no_gpu_of_its_own(tmp_path: Path) -> None:
    documents = [Document(f"d{number}", f"the {name}", name, {}) for number, name in enumerate(NAMES)]
    store = make_store(tmp_path, NAMES, context=64, documents=documents)
    run = subprocess.run(
        [sys.executable, "-c", PROBED_ON_GPUS, store.url, str(free_port())],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
    )
    assert f"probed {len(NAMES)} free 0.0" in run.stdout, run.stderr[-3000:]
