"""The gradient of a batch that is too large for one forward pass, such as all the documents of a finished model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dist_attr.influence.loss import Batch
from dist_attr.influence.training_step import TrainingStep

Gradient = Callable[[Tensor, Tensor], Tensor]


def gradient_in_parts(training_step: TrainingStep, batch: Batch, sequences_per_pass: int) -> Gradient:
    """dL/dθ (P,) of a batch as a function of parameters (P,) and source weights (S,).

    It is the sum over parts of the batch, each freed before the next, wherever the batch itself lies. It may be
    batched by vmap and differentiated forward.
    """
    split = [slice(first, first + sequences_per_pass) for first in range(0, len(batch.inputs), sequences_per_pass)]

    def gradient(theta: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros_like(theta)
        for rows in split:
            part = batch.part(rows)
            if part.count:  # a part may be all padding, and its own mean is then 0/0
                share = part.count / batch.count
                total = total + share * training_step.gradient(theta, weights, part.to(theta.device))
        return total

    return gradient


def sequences_of(batch: Batch, source: int) -> Batch:
    """The sequences of a batch in which a source has targets; other sources' targets in them do not count."""
    own = batch.sources == source
    rows = own.flatten(1).any(1) if own.ndim > 1 else own
    return Batch(batch.inputs[rows], batch.targets[rows], torch.where(own, batch.sources, -1)[rows])
