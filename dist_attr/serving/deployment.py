"""The Serve application, and starting it."""

# Without `from __future__ import annotations`: Serve validates the arguments of a config file by the annotation of
# `application`, which has to be the class itself.

import logging
import re
import socket
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client  # Serve tells where it listens nowhere else
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from dist_attr.cluster import ENVIRONMENT, connect
from dist_attr.config import ServiceConfig, absolute_url
from dist_attr.errors import ConfigError, StoreError
from dist_attr.serving.ingress import Ingress
from dist_attr.serving.readout import Readout
from dist_attr.store import open_store

NAME = "dist_attr"
DRAIN = 10.0  # seconds beyond the longest answer that a process gets to finish its requests


def application(config: ServiceConfig) -> serve.Application:
    """The ingress before copies of the readout shards; what a Serve config file names as `import_path`.

    Raises:
        StoreError: there is no finished store.
        ConfigError: more shards than sources.
    """
    config = _checked(config)
    # The decorators of Serve turn these classes into deployments, which its types do not tell.
    readout: Any = Readout
    ingress: Any = Ingress
    gpus = config.gpus
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= config.shards else 0.0
    bundle = {"CPU": config.cpus, **({"GPU": gpus} if gpus else {})}
    most = config.most_replicas or config.replicas
    scaling = {
        "min_replicas": config.replicas,
        "max_replicas": most,
        "target_ongoing_requests": config.waiting_per_replica,
    }
    lasting = {
        "graceful_shutdown_timeout_s": config.timeout + DRAIN,
        "max_ongoing_requests": 1000,  # what is too much is said by the front
        "max_surge_percent": 100 if config.surge else 0,
        "health_check_period_s": 5,
        "max_constructor_retry_count": 2,  # what is wrong with a store stays wrong
    }
    actor = {"num_cpus": 0, "runtime_env": {"env_vars": ENVIRONMENT}}
    shards = readout.options(
        ray_actor_options=actor,
        placement_group_bundles=[bundle] * config.shards,
        placement_group_strategy="PACK",
        **({"autoscaling_config": scaling} if most > config.replicas else {"num_replicas": config.replicas}),
        **lasting,
    ).bind(config, gpus)
    bound: serve.Application = ingress.options(ray_actor_options=actor, num_replicas=config.ingresses, **lasting).bind(
        config, shards
    )
    return bound


def deploy(config: ServiceConfig, *, host: str = "127.0.0.1", port: int = 8000) -> DeploymentHandle[Any]:
    """Start the service on the Ray cluster and wait until it answers; `stop` stops it.

    Where it is running already, it changes to what is asked for: requests go on being answered, by the old store's
    shards until the new one's are up.

    Raises:
        StoreError: the store cannot be served.
        ConfigError: more shards than sources, the cluster is too small, or the port is taken.
    """
    _checked(config)  # before a cluster is started for nothing
    connect()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    running = NAME in serve.status().applications
    if running:
        _check_place(host, port)
    else:
        _check_port(host, port)
    _check_room(config, beside=running and config.surge)
    serve.start(http_options=HTTPOptions(host=host, port=port))
    try:
        return serve.run(application(config), name=NAME, logging_config=LoggingConfig(log_level="WARNING"))
    except RuntimeError as error:
        why = _why(str(error))
        if not running:
            stop()
        raise StoreError(f"the service could not be started: {why}") from error


def stop() -> None:
    """Stop the service; requests under way are answered first. Its port is free afterwards, unless others use it."""
    if ray.is_initialized():
        serve.delete(NAME)
        if not serve.status().applications:
            serve.shutdown()


def _checked(config: ServiceConfig) -> ServiceConfig:
    store = open_store(config.store)
    corpus = config.corpus or store.manifest.run.corpus.path
    places = {"store": absolute_url(config.store), "corpus": None if corpus is None else absolute_url(corpus)}
    config, sources = config.model_copy(update=places), len(store.sources)
    if config.shards > sources:
        raise ConfigError(
            f"--shards is {config.shards}; the store has {sources} sources, so between 1 and {sources} shards"
        )
    return config


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error


def _check_place(host: str, port: int) -> None:
    client = _get_global_client()
    assert client is not None
    own = client.http_config
    if (own.host, own.port) != (host, port):
        raise ConfigError(
            f"this cluster serves at {own.host}:{own.port} already, not at {host}:{port}; give that --host and --port "
            "to change its store, or stop it first"
        )


def _check_room(config: ServiceConfig, *, beside: bool) -> None:
    """Raises ConfigError where the shards would wait for ever, for nodes that are not there."""
    needed = config.cpus * config.shards * config.replicas
    cpus = ray.cluster_resources().get("CPU", 0.0)
    if beside and (free := ray.available_resources().get("CPU", 0.0)) < needed <= cpus:
        raise ConfigError(
            f"the new shards need {needed:g} CPU(s) beside the old ones, and {free:g} are free; add nodes, or let "
            "requests wait while the old ones are replaced, with --no-surge"
        )
    if needed > cpus:
        raise ConfigError(f"the Ray cluster has {cpus:g} CPU(s), the shards need {needed:g}; ask for fewer --shards")


def _why(said: str) -> str:
    """The error that kept a deployment from starting, out of the traceback that Serve has of it."""
    application = serve.status().applications.get(NAME)
    texts = [] if application is None else [found.message for found in application.deployments.values()]
    found = re.findall(r"dist_attr\.errors\.\w+: (.+)", "\n".join([*texts, said]))
    if found:
        return str(found[-1])
    return (
        f"{said.strip()} Its actors died before they could say why: look at the nodes' memory and disks and Ray's logs "
        "(ray list actors, ray logs), mend that, and start the same again"
    )
