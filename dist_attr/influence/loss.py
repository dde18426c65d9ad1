"""The weighted loss: every target token counts with the weight of its source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One global batch.

    Attributes:
        inputs: what the model reads, (B, L) token ids or (B, features).
        targets: the class to predict at each position, (B, L) or (B,).
        sources: the source of each target as an index into the source weights, -1 where there is no target (padding);
            same shape as targets.
    """

    inputs: Tensor
    targets: Tensor
    sources: Tensor

    @cached_property
    def count(self) -> int:
        """n_t, the number of targets, independent of the source weights."""
        return int((self.sources >= 0).sum())

    @cached_property
    def present(self) -> frozenset[int]:
        """The sources it holds."""
        return frozenset(self.sources.unique().tolist()) - {-1}

    def part(self, rows: slice | Tensor) -> Batch:
        """Some of the sequences, for a data-parallel worker or a share of the curvature."""
        return Batch(self.inputs[rows], self.targets[rows], self.sources[rows])

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(self.inputs.to(device), self.targets.to(device), self.sources.to(device))


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """−log p of each target in nats: logits (..., classes), targets (...) -> (...)."""
    # Not F.cross_entropy: its batching rule under vmap is slow, and it has no forward derivative of the backward.
    return -logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def weighted_loss(logits: Tensor, batch: Batch, weights: Tensor, count: int) -> Tensor:
    """L_t = (1/n_t) Σ_j w_{s(j)} ℓ_j, for source weights (S,) and `count` targets in the GLOBAL batch."""
    token_weights = weights[batch.sources.clamp_min(0)] * (batch.sources >= 0)
    return (token_weights * token_losses(logits, batch.targets)).sum() / count
