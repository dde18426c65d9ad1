"""What a pass costs, measured: against blocks of a known size, and against the allocator's own record."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dist_attr.config import ModelConfig, SimulationConfig, TrainingConfig
from dist_attr.influence import Batch, TrainingStep, TrainState
from dist_attr.models import build_model
from dist_attr.simulation.probe import PassCost, Probe, pass_simulator, pass_sizes, peak_memory, probe, rows_per_actor
from dist_attr.simulation.recipe import training_step

CPU, WEIGHTS, MB = torch.device("cpu"), torch.ones(4), 2**20


@pytest.fixture(scope="module")
def run() -> tuple[TrainingStep, TrainState, Batch]:
    """A small GPT, its first state and a batch."""
    config = ModelConfig(config={"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2})
    model = build_model(config, vocabulary=64, end_of_text=0, sequence_length=64, seed=0)
    step = training_step(model, TrainingConfig())
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 64, (16, 65), generator=draw)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], torch.randint(0, 4, (16, 64), generator=draw))
    return step, step.initial(step.space.read(model)), batch


def allocated(work: Callable[[], object]) -> int:
    """Most bytes that tensors held at once, from torch's record of every allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        work()
    held = most = 0
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def test_peak_memory_is_that_of_what_is_held_at_once() -> None:
    kept = torch.ones(16 * MB)
    with peak_memory(CPU) as peak:
        blocks = [torch.ones(16 * MB), torch.ones(16 * MB)]
        del blocks
        torch.ones(MB)
    assert peak() == pytest.approx(2 * kept.nbytes, rel=0.1)


@pytest.mark.parametrize("method", ["trajectory", "tangent"])
def test_a_pass_takes_what_the_allocator_gives_it(method: str, run: tuple[TrainingStep, TrainState, Batch]) -> None:
    step, start, batch = run
    settings = SimulationConfig.model_validate({"method": method})
    (cost,) = probe(step, start, WEIGHTS, batch, settings, [4]).passes
    simulator = pass_simulator(step, start, WEIGHTS, batch, settings, 4)
    held = allocated(lambda: simulator.advance(batch, 0))
    # A heap has holes: what the process takes is more than what its tensors hold, but not many times more.
    assert 0.8 * held < cost.bytes < 3 * held
    assert cost.sources == 4 and cost.seconds > 0


def test_passes_grow_until_they_do_not_fit(run: tuple[TrainingStep, TrainState, Batch]) -> None:
    step, start, batch = run
    settings = SimulationConfig(method="tangent")
    (one,) = probe(step, start, WEIGHTS, batch, settings, [1]).passes
    row = 3 * start.theta.nbytes
    measured = probe(step, start, WEIGHTS, batch, settings, [1, 16], limit=4 * (one.bytes + row))
    assert [cost.sources for cost in measured.passes] == [1]
    assert measured.source_bytes == row and measured.step_seconds > 0
    assert measured.needed_bytes is not None and measured.needed_bytes > 8 * (one.bytes + row)
    nothing = probe(step, start, WEIGHTS, batch, settings, [1, 2], limit=row)
    assert nothing.passes == () and nothing.needed_bytes is not None and nothing.needed_bytes > row


def test_replicas_of_both_signs_count_twice(run: tuple[TrainingStep, TrainState, Batch]) -> None:
    step, start, batch = run
    measured = probe(step, start, WEIGHTS, batch, SimulationConfig(method="trajectory", central=True), [1])
    assert measured.source_bytes == 2 * 3 * start.theta.nbytes


def test_the_best_pass_is_the_smallest_about_as_fast_as_any() -> None:
    passes = tuple(PassCost(size, seconds, 0) for size, seconds in ((1, 1.0), (2, 1.6), (4, 2.52), (8, 4.9)))
    assert Probe(1.0, 1, passes).best.sources == 4
    assert Probe(1.0, 1, passes[:2]).best.seconds_each == 0.8


def test_sizes_double_up_to_all_that_an_actor_has() -> None:
    assert pass_sizes(9) == [1, 2, 4, 8, 9]
    assert pass_sizes(8) == [1, 2, 4, 8]
    assert pass_sizes(1) == pass_sizes(0) == [1]
    assert rows_per_actor(SimulationConfig(method="trajectory"), sources=9, workers=2) == 6
    assert rows_per_actor(SimulationConfig(method="trajectory", central=True), sources=9, workers=2) == 11
    assert rows_per_actor(SimulationConfig(method="tangent"), sources=9, workers=2) == math.ceil(9 / 2)
