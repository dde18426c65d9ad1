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
    """

    horizon: int | None = None
    stride: int = 1
    curvature_share: float = 1.0

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
        return training_step.gradient(theta, one, Batch(inputs, targets, own), batch.count)

    # Each source needs only the rows that hold it. Sources in equally many rows go together.
    together: dict[int, list[tuple[int, Tensor]]] = {}
    for number, source in enumerate(sources):
        if source in batch.present:
            rows = (batch.sources == source).flatten(1).any(1) if batch.sources.dim() > 1 else batch.sources == source
            held = rows.nonzero().squeeze(1)
            together.setdefault(len(held), []).append((number, held))
    for group in together.values():
        numbers = [number for number, _ in group]
        rows = torch.stack([held for _, held in group])
        wanted = torch.tensor([sources[number] for number in numbers], device=rows.device)
        own = batch.sources[rows]
        own = torch.where(own == wanted.view(-1, *[1] * (own.dim() - 1)), 0, -1)
        gradients[numbers] = vmap(gradient)(batch.inputs[rows], batch.targets[rows], own)
    return gradients
