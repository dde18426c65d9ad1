"""A program for test_resume.py: a run on a cluster of two nodes, one of which is killed and then replaced.

Prints the steps that the strides of the run ended with, as JSON.
"""

from __future__ import annotations

import json
import sys

import ray
from ray.cluster_utils import Cluster

import dist_attr as da
from dist_attr.simulation import StrideReport


def main(run: str, kill_at: int) -> None:
    """The head has no CPU, so that every actor is on a node that can be killed alone."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=40)
    steps: list[int] = []

    def progress(report: StrideReport) -> None:
        steps.append(report.step)
        if report.step >= kill_at and nodes:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            nodes.clear()
            cluster.add_node(num_cpus=1)

    da.simulate(da.RunConfig.load(run), progress=progress)
    print(json.dumps({"steps": steps}), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
