"""Law 2: the tangents of all sources sum to the tangent of scaling all weights together."""

from __future__ import annotations

import pytest
import torch

from dist_attr.influence import TangentSimulator
from tests.runs import MODELS, OPTIMIZERS, SOURCES, small_run


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clipping", [0.0, 0.5])
@pytest.mark.usefixtures("float64_inside")
def test_sum_of_tangents_is_the_tangent_of_all_weights(model: str, optimizer: str, clipping: float) -> None:
    run = small_run(model, optimizer, clipping=clipping)
    ones = torch.ones(SOURCES, dtype=torch.float64)
    simulator = TangentSimulator(run.step, run.start, ones, range(SOURCES))
    for number, batch in enumerate(run.batches):
        simulator.advance(batch, number)
    h = 1e-4
    together = (run.train(ones + h) - run.train(ones - h)) / (2 * h)
    # The scale is that of one source: clipping and Adam hardly notice a common factor, so the sum may all but vanish.
    one = simulator.tangents().norm(dim=1).min()
    assert (simulator.tangents().sum(0) - together).norm() <= 1e-6 * one
    if optimizer != "adamw" and not clipping:
        assert together.norm() > 0.1 * one
