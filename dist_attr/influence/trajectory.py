"""The trajectory simulator: beside the run, one replica of it per source, with less weight on that source."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.func import vmap

from dist_attr.influence.loss import Batch
from dist_attr.influence.training_step import TrainingStep, cache_blocks


class TrajectorySimulator:
    """Replicas trained on the run's own batches with w_b = 1 − ε: δ_b = (θ − θ_b)/ε.

    With ε = 1 a replica is the model retrained without its source. Row 0 of the stack is the run itself, unperturbed:
    it goes through the same kernels as the replicas, so that a difference holds no rounding of another code path.
    """

    def __init__(
        self,
        training_step: TrainingStep,
        theta: Tensor,
        weights: Tensor,
        sources: Sequence[int],
        *,
        epsilon: float = 1.0,
        sources_per_pass: int = 8,
    ) -> None:
        self._step = training_step
        self._epsilon = epsilon
        self._weights = weights.expand(1 + len(sources), -1).clone()
        for row, source in enumerate(sources, start=1):
            self._weights[row, source] -= epsilon
        rows = len(self._weights)
        self._passes = [slice(start, min(start + sources_per_pass, rows)) for start in range(0, rows, sources_per_pass)]
        self._state = training_step.initial(theta.expand(rows, -1))

    @property
    def parameters(self) -> Tensor:
        """The unperturbed parameters (P,)."""
        return self._state.theta[0]

    @property
    def replicas(self) -> Tensor:
        """θ_b (sources, P), the replicas' parameters."""
        return self._state.theta[1:]

    def advance(self, batch: Batch, step: int) -> None:
        """Train every replica on the global batch."""
        gradients = vmap(self._step.gradient, in_dims=(0, 0, None))
        for rows in self._passes:
            gradient = gradients(self._state.theta[rows], self._weights[rows], batch)
            factor = self._step.clip_factor(gradient)
            for columns in cache_blocks(gradient):
                old = self._state.part(rows, columns)
                old.replace(self._step.update(old, gradient[:, columns], factor, step, columns))

    def tangents(self) -> Tensor:
        """δ_b = (θ − θ_b)/ε, (sources, P)."""
        return (self.parameters - self.replicas) / self._epsilon
