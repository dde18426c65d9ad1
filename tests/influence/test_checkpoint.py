"""The checkpoint simulator against the Hessian itself, formed and inverted on models small enough for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev

from dist_attr.influence import (
    SGD,
    Batch,
    CheckpointSimulator,
    ParameterSpace,
    TrainingStep,
    estimate_curvature,
    module_forward,
)
from dist_attr.influence.checkpoint import NOT_CONVEX
from tests.influence.problems import ONES, Problem, problem
from tests.runs import SOURCES, small_run


def descend(simulated: CheckpointSimulator, batches: Sequence[Batch]) -> Tensor:
    for number, batch in enumerate(batches):
        simulated.advance(batch, number)
    return simulated.tangents()


def minibatches(problem: Problem, size: int = 8) -> list[Batch]:
    return [problem.batch.part(slice(first, first + size)) for first in range(0, 40, size)]


def assert_near(value: Tensor, true: Tensor, tolerance: float) -> None:
    assert ((value - true).norm(dim=-1) <= tolerance * true.norm(dim=-1)).all()


@pytest.mark.parametrize("model", ["logistic", "network"])
def test_after_many_steps_it_is_the_damped_inverse_hessian(model: str) -> None:
    chosen = problem(model)
    damping = 0.05 + max(0.0, -chosen.curvature.smallest)
    rate = chosen.curvature.rate(damping)
    found = descend(chosen.simulator(damping=damping, rate=rate), [chosen.batch] * 600)
    assert_near(found, chosen.solution(damping), 1e-5)
    # The damping matters: it is not the solution for another one.
    assert (found - chosen.solution(2 * damping)).norm() > 1e-2 * found.norm()


@pytest.mark.parametrize("model", ["logistic", "network"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_after_few_steps_it_is_the_sum_of_them(model: str, steps: int) -> None:
    chosen, damping = problem(model), 0.1
    rate = chosen.curvature.rate(damping)
    shrink = torch.eye(len(chosen.theta)) - rate * (chosen.hessian + damping * torch.eye(len(chosen.theta)))
    true = -rate * sum(chosen.gradients @ torch.linalg.matrix_power(shrink, k) for k in range(steps))
    assert isinstance(true, Tensor)
    assert_near(descend(chosen.simulator(), [chosen.batch] * steps), true, 1e-5)


def test_few_steps_act_as_damping() -> None:
    chosen, rate = problem(), problem().curvature.rate(0.0)
    found = descend(chosen.simulator(rate=rate, damping=0.0), [chosen.batch] * 5)
    cosines = {
        damping: nn.functional.cosine_similarity(found, chosen.solution(damping)).min()
        for damping in (1 / (5 * rate), 0.01 / (5 * rate))
    }
    assert cosines[1 / (5 * rate)] > 0.99 > cosines[0.01 / (5 * rate)]


def test_parameters_stay_although_training_has_not_converged() -> None:
    chosen = problem(training=3)
    assert chosen.gradients.sum(0).norm() > 0.1 * chosen.gradients.norm(dim=1).max()
    simulated = chosen.simulator()
    descend(simulated, [chosen.batch] * 400)
    assert torch.equal(simulated.parameters, chosen.theta)
    assert_near(simulated.tangents(), chosen.solution(0.1), 1e-5)


def test_sum_of_tangents_is_the_tangent_of_all_weights() -> None:
    chosen, epsilon, batches = problem("network"), 1e-3, minibatches(problem("network")) * 4

    def scaled(change: float) -> Tensor:
        moved = torch.zeros_like(chosen.theta)
        for batch in batches:
            force = chosen.step.gradient(chosen.theta + moved, ONES + change, batch)
            force = force - chosen.step.gradient(chosen.theta, ONES, batch)
            moved = moved - 0.3 * (force + 0.1 * moved)
        return moved

    together = (scaled(epsilon) - scaled(-epsilon)) / (2 * epsilon)
    found = descend(chosen.simulator(rate=0.3, epsilon=epsilon), batches)
    assert_near(found.sum(0), together, 1e-5)
    assert together.norm() > 0.01 * found.norm(dim=1).max()


def test_minibatch_descent_follows_the_sequence_of_batches() -> None:
    chosen, batches = problem("network"), minibatches(problem("network"))
    true, eye = torch.zeros_like(chosen.gradients), torch.eye(len(chosen.theta))
    for batch in batches:
        gradient = jacrev(lambda weights, batch=batch: chosen.step.gradient(chosen.theta, weights, batch))(ONES).T
        h = jacrev(lambda theta, batch=batch: chosen.step.gradient(theta, ONES, batch))(chosen.theta)
        true = true - 0.3 * (true @ (h + 0.1 * eye) + gradient)
    assert_near(descend(chosen.simulator(rate=0.3), batches), true, 1e-5)


@pytest.mark.parametrize("settings", [{"replicas_per_pass": 1}, {"replicas_per_pass": 3}, {"sequences_per_pass": 1}])
def test_what_is_computed_together_changes_nothing(settings: dict[str, Any]) -> None:
    chosen = problem("network")
    batch = chosen.batch
    assert (batch.sources < 0).any()  # parts with nothing but padding
    whole, parted = chosen.simulator(replicas_per_pass=64, sequences_per_pass=64), chosen.simulator(**settings)
    torch.testing.assert_close(descend(parted, [batch] * 5), descend(whole, [batch] * 5), rtol=0, atol=1e-10)


def test_any_assignment_of_sources() -> None:
    chosen = problem("network")
    together = descend(chosen.simulator(), [chosen.batch] * 5)
    for shard in ([3, 1], [0], [2], []):
        found = descend(chosen.simulator(shard), [chosen.batch] * 5)
        torch.testing.assert_close(found, together[shard], rtol=0, atol=1e-10)


def test_continued_from_a_snapshot_it_is_the_same_bit_for_bit() -> None:
    chosen, sources = problem("network"), [3, 1, 0]
    batches = [*minibatches(chosen), chosen.batch, chosen.batch, *minibatches(chosen)]
    whole = chosen.simulator(sources, rate=0.3)
    descend(whole, batches)
    first, same = chosen.simulator(sources, rate=0.3), chosen.simulator(sources, rate=0.3)
    descend(first, batches[:6])
    run, states = first.snapshot()
    assert [source.state.theta.shape for source in states] == [(2, len(chosen.theta))] * 3
    same.resume(run, states)
    assert torch.equal(descend(same, batches[6:]), whole.tangents())
    assert torch.equal(same.parameters, whole.parameters)
    # Its sources divided otherwise, in a process that does not know where the first began.
    elsewhere = replace(chosen, theta=torch.zeros_like(chosen.theta))
    other = elsewhere.simulator([0, 3], rate=0.3)
    other.resume(run, [states[2], states[0]])
    torch.testing.assert_close(descend(other, batches[6:]), whole.tangents()[[2, 0]], rtol=0, atol=1e-10)
    # What was continued is a copy: the first is where it was.
    assert not torch.equal(first.tangents(), whole.tangents())


@pytest.mark.parametrize("rate", [4.0, 1e4, float("nan")])
def test_a_rate_that_is_too_large_is_found(rate: float) -> None:
    chosen = problem()
    simulator = chosen.simulator([2, 1], rate=rate / chosen.curvature.largest)
    assert descend(simulator, [chosen.batch] * 60).isnan().all()
    assert set(simulator.diverged) == {1, 2}
    assert "diverged at step" in str(simulator.diverged[2])


def test_a_source_that_diverges_leaves_the_others_alone() -> None:
    # Each source has a feature of its own, so that its replicas feel no other's curvature, and that of 1 is larger.
    module = nn.Linear(2, 4, bias=False).double()
    sources = torch.tensor([0, 1, 0, 1])
    batch = Batch(torch.diag(ONES[:2] * torch.tensor([1, 20]))[sources], torch.arange(4), sources)
    step = TrainingStep(module_forward(module), ParameterSpace.of(module), SGD(), lambda _: 0.0)

    def simulator(simulated: list[int]) -> CheckpointSimulator:
        return CheckpointSimulator(step, torch.zeros(8).double(), ONES, simulated, rate=0.5, damping=0.0)

    alone, both = simulator([0]), simulator([0, 1])
    own = descend(alone, [batch] * 30)
    found = descend(both, [batch] * 30)
    assert not alone.diverged and list(both.diverged) == [1]
    assert found[1].isnan().all()
    torch.testing.assert_close(found[0], own[0], rtol=0, atol=1e-12)
    # Continued, it is known to have diverged, and when and how far.
    later = simulator([1, 0])
    run, states = both.snapshot()
    later.resume(run, states[::-1])
    later.advance(batch, 30)
    assert later.diverged == both.diverged
    assert torch.isfinite(later.tangents()[1]).all()


def test_a_divergence_is_found_at_the_same_step_after_a_pause() -> None:
    chosen = problem("network", training=2)
    rate, batches = chosen.curvature.rate(0.0), [chosen.batch] * 30
    whole, first, later = (chosen.simulator(rate=rate, damping=0.0) for _ in range(3))
    descend(whole, batches)
    assert whole.diverged
    for number in range(3):
        first.advance(chosen.batch, number)
    later.resume(*first.snapshot())
    for number in range(3, 30):
        later.advance(chosen.batch, number)
    assert later.diverged == whole.diverged


def test_a_source_without_targets_is_displaced_by_nothing_but_rounding() -> None:
    chosen = problem("network")
    sources = chosen.batch.sources.where(chosen.batch.sources != 2, -1)
    found = descend(chosen.simulator(), [Batch(chosen.batch.inputs, chosen.batch.targets, sources)] * 50)
    assert found[2].norm() < 1e-10 < found[1].norm()


def test_negative_curvature_is_borne_for_a_while_and_then_found() -> None:
    chosen = problem("network", training=2)
    assert chosen.curvature.smallest < -0.01
    assert not chosen.curvature.converges(0.0)
    assert chosen.curvature.converges(-1.1 * chosen.curvature.smallest)
    rate = chosen.curvature.rate(0.0)
    simulator = chosen.simulator(rate=rate, damping=0.0)
    descend(simulator, [chosen.batch] * 3)
    assert not simulator.diverged
    descend(simulator, [chosen.batch] * 27)
    assert simulator.diverged


@pytest.mark.parametrize("rate", [0.5, 1.0, 1.9])
def test_descent_that_converges_stays_well_within_reach(rate: float) -> None:
    chosen = problem()
    assert NOT_CONVEX > 1
    simulated = chosen.simulator(rate=rate / (chosen.curvature.largest + 1e-3), damping=1e-3, epsilon=1.0)
    for number in range(200):
        simulated.advance(chosen.batch, number)
        assert (simulated._far() <= 1.0001 * simulated._reach).all()


@pytest.mark.parametrize("model", ["logistic", "gpt2"])
def test_the_first_step_goes_as_far_as_it_can(model: str) -> None:
    if model == "gpt2":  # sequences with targets of all sources
        run = small_run("gpt2", "sgd", steps=1)
        batch = run.batches[0]
        simulated = CheckpointSimulator(run.step, run.theta, ONES, range(SOURCES), rate=0.1, damping=0.1)
    else:
        batch, simulated = problem().batch, problem().simulator()
    simulated.advance(batch, 0)
    torch.testing.assert_close(simulated._far(), simulated._reach, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_real_model(dtype: torch.dtype) -> None:
    run = small_run("gpt2", "sgd", dtype=dtype, steps=4)
    batch, weights = run.batches[0], ONES.to(dtype)
    curvature = estimate_curvature(run.step, run.theta, weights, batch, iterations=30)
    damping = curvature.largest / 10 - min(curvature.smallest, 0.0)
    rate = curvature.rate(damping)
    simulated = CheckpointSimulator(run.step, run.theta, weights, range(SOURCES), rate=rate, damping=damping)
    tangents = descend(simulated, [batch] * 80).double()

    exact = small_run("gpt2", "sgd", steps=4)

    def residual(tangent: Tensor, source: int) -> Tensor:
        """(H + λI)δ_b + g_b, by central differences of the plain gradient."""

        def force(h: float) -> Tensor:
            changed = ONES.clone()
            changed[source] += h
            return exact.step.gradient(exact.theta + h * tangent, changed, batch)

        return (force(1e-3) - force(-1e-3)) / 2e-3 + damping * tangent

    for source in range(SOURCES):
        rest = residual(tangents[source], source).norm()
        assert rest < 0.05 * residual(torch.zeros_like(tangents[source]), source).norm()
