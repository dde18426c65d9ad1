"""The functional training step against torch's optimizers, torch's clipping and transformers' schedules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from transformers import get_scheduler

from dist_attr.influence import SGD, Adam, LearningRate, Optimizer, TrainingStep, weighted_loss
from dist_attr.influence.training_step import cache_blocks
from tests.runs import SOURCES, small_run


@pytest.mark.parametrize(
    ("rule", "make"),
    [
        (SGD(), torch.optim.SGD),
        (SGD(momentum=0.9), partial(torch.optim.SGD, momentum=0.9)),
        (SGD(momentum=0.9, nesterov=True), partial(torch.optim.SGD, momentum=0.9, nesterov=True)),
        (Adam(betas=(0.8, 0.95), eps=1e-6), partial(torch.optim.AdamW, betas=(0.8, 0.95), eps=1e-6)),
        (Adam(decoupled=False), torch.optim.Adam),
    ],
)
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_whole_run_equals_torch(rule: Optimizer, make: Callable[..., torch.optim.Optimizer], decay: float) -> None:
    run = small_run()
    step = TrainingStep(run.step.forward, run.step.space, rule, lambda _: 0.1, clipping=0.7, weight_decay=decay)
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0], dtype=torch.float64)
    state = step.initial(run.theta)
    optimizer = make(run.model.parameters(), lr=0.1, weight_decay=decay)
    for number, batch in enumerate(run.batches):
        state = step(state, weights, batch, number)
        optimizer.zero_grad()
        weighted_loss(run.model(input_ids=batch.inputs).logits, batch, weights, batch.count).backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 0.7)
        optimizer.step()
    torch.testing.assert_close(state.theta, run.step.space.read(run.model), rtol=1e-7, atol=1e-9)


def test_weighted_loss_is_the_mean_cross_entropy_when_all_weights_are_one() -> None:
    run = small_run()
    batch = run.batches[0]
    logits = run.model(input_ids=batch.inputs).logits
    labels = batch.targets.masked_fill(batch.sources < 0, -100)
    torch.testing.assert_close(
        weighted_loss(logits, batch, torch.ones(SOURCES, dtype=torch.float64), batch.count),
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()),
    )


def test_padding_counts_for_no_source() -> None:
    batch = small_run().batches[0]
    assert batch.count == batch.sources.numel() - 4


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_schedules_are_those_of_transformers(shape: str, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    name = "constant_with_warmup" if shape == "constant" else shape
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=10)
    ours = LearningRate(0.3, shape, warmup, 10)  # type: ignore[arg-type]
    for step in range(10):
        assert ours(step) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_a_parameter_without_gradient_has_a_finite_derivative() -> None:
    rule = Adam(eps_root=0.0)
    zero = torch.zeros(2)
    tangent = torch.func.jvp(
        lambda g: rule.update(torch.ones(2), (zero, zero), g, 0.1, 0, 0.0)[0],
        (torch.tensor([0.0, 1.0]),),
        (torch.ones(2),),
    )[1]
    assert torch.isfinite(tangent).all()


@pytest.mark.parametrize("rows", [0, 1, 7, 10**4])
def test_cache_blocks_cover_every_column_once(rows: int) -> None:
    blocks = cache_blocks(torch.empty(rows, 1000, device="cpu"), elements=4096)
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(1000))
