"""The self-check: do the derivatives of this very model, kernels and precision agree with each other?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp

from dist_attr.influence.loss import Batch
from dist_attr.influence.readout import Sequences, directional_logprobs
from dist_attr.influence.training_step import TrainingStep


class SelfCheck(NamedTuple):
    """Relative errors, 0 for perfect agreement.

    Attributes:
        gradient: the forward-mode derivative of the gradient against its central difference, along a direction of the
            parameters and along the weight of a source; the larger error of the two.
        readout: the forward-mode derivative of a sequence's log-probability against the backward-mode gradient.
    """

    gradient: float
    readout: float


def self_check(step: TrainingStep, theta: Tensor, weights: Tensor, batch: Batch, source: int) -> SelfCheck:
    """Differentiate at parameters (P,) and source weights (S,) in three ways, with a handful of gradient evaluations.

    The direction is drawn anew from a fixed seed and leaves global random state alone.
    """
    draw = torch.Generator().manual_seed(0)
    direction = torch.randn(len(theta), generator=draw, dtype=theta.dtype).to(theta.device)
    # A hundredth of the parameters' own size, so that float32 resolves the difference and curvature does not bend it.
    direction *= 1e-2 * theta.norm().clamp_min(1e-3 * len(theta) ** 0.5) / direction.norm()
    one = torch.zeros_like(weights)
    one[source] = 1.0
    small = Batch(batch.inputs[:1], batch.targets[:1], batch.sources[:1])

    def gradient(theta: Tensor, weights: Tensor) -> Tensor:
        return step.gradient(theta, weights, small)

    def difference(along: tuple[Tensor, Tensor], h: float) -> Tensor:
        up, down = (gradient(theta + sign * h * along[0], weights + sign * h * along[1]) for sign in (1, -1))
        return (up - down) / (2 * h)

    def error(along: tuple[Tensor, Tensor]) -> float:
        forward: Tensor = jvp(gradient, (theta, weights), along)[1]
        # Narrow steps drown in rounding, wide ones bend; where that is differs by model, and a wrong derivative is
        # wrong at every width. Extrapolated from two widths, so that no error of order h² is left.
        return min(
            _relative(forward, (4 * difference(along, h / 2) - difference(along, h)) / 3) for h in (0.1, 0.5, 2.5)
        )

    still = torch.zeros_like(theta), torch.zeros_like(weights)
    tokens = torch.cat([small.inputs, small.targets[:, -1:]], dim=1)
    at = theta.detach().clone().requires_grad_()
    sequences = Sequences(step.forward, step.space, theta, tokens)
    (backward,) = torch.autograd.grad(sequences.logprobs(at).sum(), at)
    scores = directional_logprobs(sequences, [direction[None]]).scores
    return SelfCheck(
        max(error((direction, still[1])), error((still[0], one))), _relative(scores.sum(), direction @ backward)
    )


def _relative(one: Tensor, other: Tensor) -> float:
    size = torch.maximum(one.norm(), other.norm()).clamp_min(1e-20)
    return float((one - other).norm() / size)
