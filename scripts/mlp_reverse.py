"""The derivative of a query's output in the weight of every example, computed backwards through a training.

It is the very number that the tangent simulator gives at full horizon, for all examples and one query instead of one
example and all queries: cheaper as long as there are fewer queries than examples, and of no use where queries come
when the training is over. A benchmark of 5,000 examples and 50 queries spares itself a wait with it; it is compared
with the simulator's numbers in the same run (scripts/mlp_lds.py) and in a test.

With g_t the gradient and v momentum, v ← μv + g_t(θ), θ ← θ − ηv: for the derivatives λ_θ, λ_v of the output in what a
step leaves behind, a = λ_v − ηλ_θ is that in g_t, and those in what the step found are λ_θ + H_t a and μa.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import grad, vmap

from dist_attr.influence import Batch
from dist_attr.influence.forward_mode import push_forward
from dist_attr.influence.loss import token_losses
from scripts.mlp_runs import Floats, Run

PER_PASS = 25  # queries computed together


def path(run: Run) -> list[Tensor]:
    """The parameters before each step of a training, and after the last."""
    state, thetas = run.step.initial(run.step.space.read(run.start)), list[Tensor]()
    for t, batch in enumerate(run.batches()):
        thetas.append(state.theta)
        state = run.step(state, run.weights, batch, t)
    return [*thetas, state.theta]


def checkpoints_of(run: Run, number: int) -> list[int]:
    """After how many steps a training is asked so many times, evenly, the last time at its end."""
    steps = len(list(run.batches()))
    if not 1 <= number <= steps:
        raise ValueError(f"a training of {steps} steps has 1 to {steps} checkpoints, not {number}")
    return [steps * (k + 1) // number for k in range(number)]


def reversed_scores(
    run: Run,
    curvature: float = 1.0,
    *,
    checkpoints: int = 1,
    along: Sequence[Tensor] | None = None,
    queries: int | None = None,
) -> Floats:
    """Scores (queries, examples): d log-odds of the query / d weight of the example.

    Args:
        run: the training.
        curvature: what every H_t counts, the simulator's `curvature_weight`.
        checkpoints: the log-odds are their mean over so many models of the training, see `checkpoints_of`.
        along: the parameters before each step and after the last, by default those of the training computed once more.
            Where training is chaotic that ends elsewhere: rounding is enough.
        queries: how many, the first ones; by default all.
    """
    step, weights, momentum, batches = run.step, run.weights, run.recipe.momentum, list(run.batches())
    thetas, asked = path(run) if along is None else along, checkpoints_of(run, checkpoints)
    queries = len(run.images.test) if queries is None else queries
    scores = torch.zeros(queries, len(weights))
    for first in range(0, queries, PER_PASS):
        part = slice(first, min(first + PER_PASS, queries))
        one_hot = torch.eye(part.stop - part.start)

        def output(theta: Tensor, chosen: Tensor, part: slice = part) -> Tensor:
            return chosen @ run.log_odds(theta, part)

        gradients = vmap(grad(output), in_dims=(None, 0))
        of_theta = torch.zeros(len(one_hot), len(thetas[-1]))
        of_velocity = torch.zeros_like(of_theta)
        for t in reversed(range(len(batches))):
            if t + 1 in asked:
                of_theta.add_(gradients(thetas[t + 1], one_hot), alpha=1 / checkpoints)
            of_gradient = of_velocity.sub_(of_theta, alpha=step.rate(t))
            _pull_back(run, batches[t], thetas[t], of_gradient, of_theta, scores[part], curvature)
            of_velocity = of_gradient.mul_(momentum)
    return scores.double().numpy()


def _pull_back(
    run: Run, batch: Batch, theta: Tensor, of_gradient: Tensor, of_theta: Tensor, scores: Tensor, weight: float
) -> None:
    """Through one gradient: its derivatives in the examples' weights and in the parameters are added in place."""
    step, weights = run.step, run.weights

    def losses(theta: Tensor) -> Tensor:
        return token_losses(step.forward(step.space.unflatten(theta), batch.inputs), batch.targets)

    _, direct = push_forward(losses, (theta,), (of_gradient,))
    scores[:, batch.sources] += direct / batch.count
    # Only what counts bends the model; the Hessian is symmetric, so that its product is the forward-mode one.
    present = batch.part(weights[batch.sources] > 0)
    _, curvature = push_forward(
        lambda theta: step.gradient(theta, weights, present, batch.count), (theta,), (of_gradient,)
    )
    of_theta.add_(curvature, alpha=weight)
