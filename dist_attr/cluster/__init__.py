"""The Ray cluster that the actors live on, and the environment they live in."""

from __future__ import annotations

import logging
import os

import ray

from dist_attr.errors import DistAttrError

# Set for every actor's process.
ENVIRONMENT = {
    # Waiting OpenMP threads otherwise spin, and slow down the other processes of a machine many times over.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    # glibc hands large blocks back to the kernel at every free; getting them again costs a stacked pass up to half.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine; does nothing when already connected."""
    if ray.is_initialized():
        return
    # Silences a warning about a default of Ray that does not concern these actors.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A Ray that is started here, for one run, has nothing to report to anyone.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def gpus_per_actor(actors: int) -> int:
    """One GPU for each of some actors if the cluster has that many, else none.

    Raises:
        DistAttrError: the cluster has fewer CPUs than actors, so that they would wait for ever.
    """
    resources = ray.cluster_resources()
    if (cpus := int(resources.get("CPU", 0))) < actors:
        raise DistAttrError(
            f"the Ray cluster has {cpus} CPU(s), fewer than the {actors} actors asked for; "
            "ask for fewer (cluster.workers, --workers), or add nodes"
        )
    return 1 if resources.get("GPU", 0) >= actors else 0
