"""The trajectory simulator: beside the run, replicas of it with another weight on one source."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.func import vmap

from dist_attr.influence.loss import Batch
from dist_attr.influence.training_step import TrainingStep, TrainState, cache_blocks


class TrajectorySimulator:
    """Replicas trained on the run's own batches with w_b = 1 − ε: δ_b = (θ − θ_b)/ε.

    With ε = 1 a replica is the model retrained without its source. Central, a source has a second replica with
    w_b = 1 + ε, and δ_b = (θ_b⁺ − θ_b⁻)/2ε, whose error is of order ε² instead of ε. Row 0 of the stack is the run
    itself, unperturbed: it goes through the same kernels as the replicas, so that a difference holds no rounding of
    another code path.
    """

    def __init__(
        self,
        training_step: TrainingStep,
        start: TrainState,
        weights: Tensor,
        sources: Sequence[int],
        *,
        epsilon: float = 1.0,
        central: bool = False,
        sources_per_pass: int = 8,
    ) -> None:
        self._step = training_step
        self._epsilon, self._central = epsilon, central
        self._each = 2 if central else 1
        rows = 1 + self._each * len(sources)
        self._weights = weights.expand(rows, -1).clone()
        for number, source in enumerate(sources):
            for sign, row in zip((-1, 1), self._rows_of(number), strict=False):
                self._weights[row, source] += sign * epsilon
        self._passes = [slice(first, min(first + sources_per_pass, rows)) for first in range(0, rows, sources_per_pass)]
        self._state = start.expand(rows)

    def _rows_of(self, number: int) -> range:
        return range(1 + number * self._each, 1 + (number + 1) * self._each)

    @property
    def parameters(self) -> Tensor:
        """The unperturbed parameters (P,)."""
        return self._state.theta[0]

    @property
    def replicas(self) -> Tensor:
        """The replicas' parameters (sources, P); central (2 × sources, P), less weight before more of each source."""
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
        """δ_b (sources, P)."""
        if self._central:
            return (self.replicas[1::2] - self.replicas[::2]) / (2 * self._epsilon)
        return (self.parameters - self.replicas) / self._epsilon

    def snapshot(self) -> tuple[TrainState, list[TrainState]]:
        """The run's state (P,), and of each source the states of its replicas (replicas, P)."""
        parts = [self._state.part(slice(rows.start, rows.stop)) for rows in map(self._rows_of, range(self._sources))]
        return self._state.part(0), parts

    def resume(self, run: TrainState, sources: Sequence[TrainState]) -> None:
        """Continue from a snapshot of the same sources."""
        self._state.part(0).replace(run)
        for number, state in enumerate(sources):
            rows = self._rows_of(number)
            self._state.part(slice(rows.start, rows.stop)).replace(state)

    @property
    def _sources(self) -> int:
        return (len(self._weights) - 1) // self._each
