"""The levers that make a simulation cheaper than exact, all of them on the derivative of the gradient.

That derivative has two parts. The *direct* term (1/n_t) Σ_{j of b} ∇ℓ_j is there when the batch holds source b; all
sources' together cost about one gradient. The *curvature* term H δθ_b is there at every step and costs more than a
gradient for each source. So every lever spares curvature and none the direct term.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from dist_attr.influence.loss import Batch
from dist_attr.influence.training_step import TrainingStep


@dataclass(frozen=True)
class Levers:
    """How much of the curvature is simulated; by default all of it, and the simulation is exact.

    What they do follows from the step's number and the batch alone: the same for every source, worker and pass.

    Attributes:
        horizon: steps for which a source is active after the batch that held it, that batch's own counting as the
            first; then it is frozen until it appears again. None for ever. Only for tangents.
        stride: the curvature of so many steps is applied once in so many steps. Only for tangents.
        curvature_share: part of the batch's rows that the curvature is taken from, above 0 to 1, other rows every time.
        curvature_weight: what the curvature counts, above 0 to 1. The noise of few rows is multiplied by the
            displacement that it drives off, which can grow without end; less of such a curvature is steadier. So it is
            with all rows where training is chaotic.
    """

    horizon: int | None = None
    stride: int = 1
    curvature_share: float = 1.0
    curvature_weight: float = 1.0

    def strength(self, step: int) -> int:
        """How many steps' curvature is applied at step 0, 1, ... ."""
        return self.stride if step % self.stride == self.stride - 1 else 0

    def curvature_batch(self, batch: Batch, step: int) -> Batch:
        """The rows that the curvature of a step is taken from; the very same batch if that is all of them."""
        rows = len(batch.inputs)
        chosen = max(1, round(self.curvature_share * rows))
        if chosen >= rows:
            return batch
        # Counted in steps that apply curvature: counted in steps, a stride would come by some rows never.
        first = step // self.stride * chosen
        device = batch.inputs.device
        return batch.part((first + torch.arange(chosen, device=device)) % rows)


EXACT = Levers()


def curvature_count(part: Batch) -> int:
    """What the loss of a curvature batch is divided by, for its mean to stand for the whole batch's."""
    return max(1, part.count)  # rows of nothing but padding have no curvature, instead of 0/0


def source_gradients(training_step: TrainingStep, theta: Tensor, batch: Batch, sources: list[int]) -> Tensor:
    """The direct term (1/n_t) Σ_{j of b} ∇ℓ_j of each source b (sources, P), zero for those the batch does not hold.

    Args:
        training_step: Φ, which has the model.
        theta: the parameters (P,).
        batch: the global batch, or a part of it, which counts as a batch of its own.
        sources: indices into the source weights.
    """
    gradients = theta.new_zeros(len(sources), len(theta))
    one = theta.new_ones(1)

    def gradient(inputs: Tensor, targets: Tensor, own: Tensor) -> Tensor:
        row = Batch(inputs.unsqueeze(0), targets.unsqueeze(0), own.unsqueeze(0))
        return training_step.gradient(theta, one, row, batch.count)

    # Each source needs only the rows that hold it, and most rows are held by one source. Row by row, so that one
    # batched pass, no larger than its result, serves sources in any number of rows.
    wanted = torch.tensor(sources, device=batch.sources.device)
    in_rows = batch.sources.view(1, len(batch.sources), -1) == wanted.view(-1, 1, 1)
    held, rows = (in_rows.any(2) & (wanted >= 0).unsqueeze(1)).nonzero(as_tuple=True)  # −1 is no source, but padding
    for first in range(0, len(held), len(sources)):
        some = slice(first, first + len(sources))
        numbers, own = held[some], batch.sources[rows[some]]
        own = torch.where(own == wanted[numbers].view(-1, *[1] * (own.dim() - 1)), 0, -1)
        each = vmap(gradient)(batch.inputs[rows[some]], batch.targets[rows[some]], own)
        gradients.index_add_(0, numbers, each)
    return gradients
