"""The Serve application, and starting it."""

from __future__ import annotations

import logging
import socket
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from dist_attr.cluster import ENVIRONMENT, connect, gpus_per_actor
from dist_attr.config import absolute_url
from dist_attr.errors import ConfigError
from dist_attr.serving.ingress import Ingress
from dist_attr.serving.shard import ReadoutShard
from dist_attr.store import open_store

NAME = "dist_attr"


def application(store: str, shards: int, gpus: int = 0) -> serve.Application:
    """The ingress before `shards` readout shards of a store, each with `gpus` GPUs."""
    # The decorators of Serve turn these classes into deployments, which its types do not tell.
    shard: Any = ReadoutShard
    ingress: Any = Ingress
    resources = {"num_cpus": 1, "num_gpus": gpus, "runtime_env": {"env_vars": ENVIRONMENT}}
    bound = [
        shard.options(name=f"ReadoutShard-{index}", ray_actor_options=resources).bind(store, index, shards)
        for index in range(shards)
    ]
    bound_ingress: serve.Application = ingress.options(ray_actor_options={"num_cpus": 0}).bind(store, bound)
    return bound_ingress


def deploy(store: str, *, shards: int = 2, host: str = "127.0.0.1", port: int = 8000) -> DeploymentHandle[Any]:
    """Start the service on the Ray cluster and wait until it answers; `stop` stops it.

    Raises:
        StoreError: the store cannot be served.
        ConfigError: more shards than sources, or the port is taken.
    """
    store = absolute_url(store)
    sources = len(open_store(store).sources)
    if not 1 <= shards <= sources:
        raise ConfigError(f"--shards is {shards}; the store has {sources} sources, so between 1 and {sources} shards")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    connect()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    gpus = gpus_per_actor(shards)
    serve.start(http_options=HTTPOptions(host=host, port=port))
    return serve.run(application(store, shards, gpus), name=NAME, logging_config=LoggingConfig(log_level="WARNING"))


def stop() -> None:
    """Stop the service; requests under way are answered first."""
    if ray.is_initialized():
        serve.delete(NAME)
