"""One Ray cluster and one finished run, shared by all tests of the whole path, and a service of it for each module."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import dist_attr as da
from dist_attr.config import ServiceConfig
from dist_attr.serving import deploy, stop
from tests.proxy import Proxy
from tests.s3_server import S3Server

SOURCES = ("ant", "bee", "cat", "dog", "emu")


@pytest.fixture(scope="session")
def s3_proxy(s3: S3Server) -> Iterator[Proxy]:
    """What stands before the S3 server of the cluster."""
    proxy = Proxy(s3.endpoint)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def s3_environment(s3: S3Server, s3_proxy: Proxy) -> dict[str, str]:
    """How the cluster finds it."""
    return {**s3.environment, "AWS_ENDPOINT_URL": s3_proxy.endpoint}


@pytest.fixture(scope="session")
def cluster(s3_environment: dict[str, str]) -> Iterator[None]:
    """Ray on this machine; more CPUs than it may have, since the actors of these tests are tiny."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False, logging_level=40)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL corpus whose sources talk about different things."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(40):
            source = SOURCES[number % len(SOURCES)]
            words = [draw.choice([source, "the", "and", "ran", "é", str(number)]) for _ in range(30)]
            file.write(json.dumps({"id": f"d{number}", "source": source, "text": " ".join(words)}) + "\n")
    return path


Settings = Callable[..., da.RunConfig]


@pytest.fixture(scope="session")
def settings(corpus_file: Path) -> Settings:
    """A small run; keyword arguments change its rooms' settings."""

    def make(output: Path | str, **changes: dict[str, Any]) -> da.RunConfig:
        values: dict[str, dict[str, Any]] = {
            "corpus": {"path": str(corpus_file)},
            "model": {"config": {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2}},
            "training": {
                "steps": 8,
                "batch_size": 8,
                "sequence_length": 32,
                "learning_rate": 0.01,
                "weight_decay": 0.1,
                "gradient_clipping": 0.5,
                "schedule": "cosine",
                "warmup_steps": 2,
            },
            "simulation": {"method": "trajectory", "check_every": 3, "sources_per_pass": 2},
            "store": {"codec": "float32"},
            "cluster": {"workers": 2},
        }
        for room, change in changes.items():
            values[room] = {**values[room], **change}
        return da.RunConfig.parse({**values, "output": str(output)})

    return make


@pytest.fixture(scope="session")
def finished_run(cluster: None, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished trajectory simulation with two workers."""
    output = tmp_path_factory.mktemp("run")
    da.simulate(settings(output))
    return output


@pytest.fixture(scope="module")
def store(finished_run: Path) -> da.InfluenceStore:
    """Of the finished run."""
    return da.open_store(str(finished_run / "influence.zarr"))


@pytest.fixture(scope="module")
def attributor(store: da.InfluenceStore) -> da.Attributor:
    """What the service is compared with."""
    return da.Attributor(store)


@pytest.fixture(scope="module")
def endpoint(store: da.InfluenceStore) -> Iterator[str]:
    """A service of the store with two shards."""
    port = free_port()
    deploy(ServiceConfig(store=store.url, surge=False), port=port)
    yield f"http://127.0.0.1:{port}"
    stop()


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
