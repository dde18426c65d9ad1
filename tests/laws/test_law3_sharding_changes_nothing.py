"""Law 3, in one process: which sources are simulated together changes nothing. tests/end_to_end has the actors."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dist_attr.influence import make_simulator
from tests.runs import SOURCES, small_run


def simulate(method: str, sources: Sequence[int], per_pass: int) -> Tensor:
    run = small_run()
    simulator = make_simulator(
        "trajectory" if method == "trajectory" else "tangent",
        run.step,
        run.start,
        torch.ones(SOURCES, dtype=torch.float64),
        sources,
        sources_per_pass=per_pass,
    )
    for number, batch in enumerate(run.batches):
        simulator.advance(batch, number)
    assert simulator.parameters.shape == run.theta.shape
    return simulator.tangents()


@pytest.mark.parametrize("method", ["trajectory", "tangent"])
@pytest.mark.parametrize("per_pass", [1, 2, 3, 64])
def test_any_number_of_sources_per_pass(method: str, per_pass: int) -> None:
    torch.testing.assert_close(
        simulate(method, range(SOURCES), per_pass), simulate(method, range(SOURCES), SOURCES), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("method", ["trajectory", "tangent"])
def test_any_assignment_of_sources(method: str) -> None:
    together = simulate(method, range(SOURCES), 8)
    for shard in ([3, 1], [0], [2]):
        torch.testing.assert_close(simulate(method, shard, 8), together[shard], rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["trajectory", "tangent"])
def test_an_actor_without_sources_still_follows_the_run(method: str) -> None:
    assert simulate(method, [], 8).shape == (0, small_run().step.space.size)
