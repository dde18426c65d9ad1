"""The derivative of a query's output in the weight of every example, computed backwards through a training.

It is the very number that the tangent simulator gives at full horizon, for all examples and one query instead of one
example and all queries: cheaper as long as there are fewer queries than examples, and of no use where queries come
when the training is over. A benchmark of 5,000 examples and 50 queries spares itself a wait with it; it is compared
with the simulator's numbers in the same run (scripts/mlp_lds.py) and in a test.

With g_t the gradient and v momentum, v ← μv + g_t(θ), θ ← θ − ηv: for the derivatives λ_θ, λ_v of the output in what a
step leaves behind, a = λ_v − ηλ_θ is that in g_t, and those in what the step found are λ_θ + H_t a and μa.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, vmap

from dist_attr.influence import Batch
from dist_attr.influence.forward_mode import push_forward
from dist_attr.influence.loss import token_losses
from scripts.mlp_runs import Floats, Run

PER_PASS = 25  # queries computed together


def reversed_scores(run: Run, curvature: float = 1.0) -> Floats:
    """Scores (queries, examples): d log-odds of the query / d weight of the example.

    Args:
        run: the training.
        curvature: what every H_t counts, the simulator's `curvature_weight`.
    """
    step, weights, momentum = run.step, run.weights, run.recipe.momentum
    state, before, batches = step.initial(step.space.read(run.start)), list[Tensor](), list(run.batches())
    for t, batch in enumerate(batches):
        before.append(state.theta)
        state = step(state, weights, batch, t)
    queries = len(run.images.test)
    scores = torch.zeros(queries, len(weights))
    for first in range(0, queries, PER_PASS):
        part = slice(first, min(first + PER_PASS, queries))
        one_hot = torch.eye(part.stop - part.start)

        def output(theta: Tensor, chosen: Tensor, part: slice = part) -> Tensor:
            return chosen @ run.log_odds(theta, part)

        of_theta = vmap(grad(output), in_dims=(None, 0))(state.theta, one_hot)
        assert isinstance(of_theta, Tensor)
        of_velocity = torch.zeros_like(of_theta)
        for t in reversed(range(len(batches))):
            of_gradient = of_velocity.sub_(of_theta, alpha=step.rate(t))
            _pull_back(run, batches[t], before[t], of_gradient, of_theta, scores[part], curvature)
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
