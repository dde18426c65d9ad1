"""A program for test_service_clusters.py: a service on several nodes, one of which is killed under load, and replaced.

Prints how many answers there were before and after, and what they were, as JSON.
"""

from __future__ import annotations

import json
import sys

import ray
from ray.cluster_utils import Cluster

import dist_attr as da
from dist_attr.config import ServiceConfig
from dist_attr.serving import deploy, stop
from tests.end_to_end.conftest import free_port
from tests.end_to_end.test_service_faults import QUERIES, Load


def main(url: str) -> None:
    """The head has no CPU: it keeps the ingress, and every shard is on a node that can be killed alone."""
    store = da.open_store(url)
    right = {store.manifest.identity: da.Attributor(store).attribute(QUERIES).scores}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=40)
    port = free_port()
    deploy(ServiceConfig(store=url, shards=2, cpus=1), port=port)
    with Load(f"http://127.0.0.1:{port}", right, store.sources, patience=200) as load:
        load.answered(20)
        before = load.counts["right"]
        cluster.remove_node(nodes[0], allow_graceful=False)
        cluster.add_node(num_cpus=1)
        load.answered(20)
    print(json.dumps({"before": before, "after": load.counts["right"] - before, "counts": load.counts}), flush=True)
    stop()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
