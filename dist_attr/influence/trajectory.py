"""The trajectory simulator: beside the run, replicas of it with another weight on one source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor
from torch.func import vmap

from dist_attr.influence.levers import EXACT, Levers, curvature_count, source_gradients
from dist_attr.influence.loss import Batch
from dist_attr.influence.stacks import Stack, beside_the_run
from dist_attr.influence.training_step import SourceState, TrainingStep, TrainState, cache_blocks


class TrajectorySimulator:
    """Replicas trained on the run's own batches with w_b = 1 − ε: δ_b = (θ − θ_b)/ε.

    With ε = 1 a replica is the model retrained without its source. Central, a source has a second replica with
    w_b = 1 + ε, and δ_b = (θ_b⁺ − θ_b⁻)/2ε, whose error is of order ε² instead of ε. Row 0 of the stack is the run
    itself, unperturbed: it goes through the same kernels as the replicas, so that a difference holds no rounding of
    another code path.

    With a part of the batch for the curvature, the gradient at the run's own parameters θ is a control variate: a
    replica's is taken to be g(θ; w_b) + κ [g_part(θ_b; w_b) − g_part(θ; w_b)], with a weight κ for a part's noise; all
    of the batch with κ = 1 would make that exact.
    At θ the gradients with different weights differ by direct terms, (1/n_t) Σ_{j of b} ∇ℓ_j(θ), and those of all
    sources together cost about as much as one gradient.
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
        levers: Levers = EXACT,
        sources_per_pass: int = 8,
        stack: Stack = beside_the_run,
    ) -> None:
        self._step = training_step
        self._levers = levers
        self._epsilon, self._central = epsilon, central
        self._each = 2 if central else 1
        rows = 1 + self._each * len(sources)
        self._weights = weights.expand(rows, -1).clone()
        # Of which source a row has more weight, and by how much; of none, the run itself.
        self._changed, self._changes = [-1] * rows, weights.new_zeros(rows, 1)
        for number, source in enumerate(sources):
            for sign, row in zip((-1, 1), range(rows)[self._rows_of(number)], strict=False):
                self._weights[row, source] += sign * epsilon
                self._changed[row], self._changes[row] = source, sign * epsilon
        self._passes = [slice(first, min(first + sources_per_pass, rows)) for first in range(0, rows, sources_per_pass)]
        self._device = start.theta.device
        self._state = start.expand(rows, stack)

    def _rows_of(self, number: int) -> slice:
        return slice(1 + number * self._each, 1 + (number + 1) * self._each)

    @property
    def parameters(self) -> Tensor:
        """The unperturbed parameters (P,)."""
        return self._state.theta[0].to(self._device)

    @property
    def replicas(self) -> Tensor:
        """The replicas' parameters (sources, P); central (2 × sources, P), less weight before more of each source."""
        return self._state.theta[1:]

    def advance(self, batch: Batch, step: int) -> int:
        """Train every replica on the global batch; all sources are active."""
        for rows, gradient in self._gradients(batch, self._levers.curvature_batch(batch, step)):
            factor = self._step.clip_factor(gradient)
            for columns in cache_blocks(gradient):
                old = self._state.part(rows, columns)
                new = self._step.update(old.to(self._device), gradient[:, columns], factor, step, columns)
                old.replace(new)
        return self._sources

    def _gradients(self, batch: Batch, part: Batch) -> Iterator[tuple[slice, Tensor]]:
        """Rows, pass by pass, and their gradients (rows, P), the curvature by the levers."""
        if part is batch and self._levers.curvature_weight == 1:
            gradients = vmap(self._step.gradient, in_dims=(0, 0, None))
            for rows in self._passes:
                yield rows, gradients(self._thetas(rows), self._weights[rows], batch)
            return
        run, of_run = self.parameters.clone(), None  # row 0 moves on after the first pass
        whole = self._step.gradient(run, self._weights[0], batch)
        of_parts = vmap(self._step.gradient, in_dims=(0, 0, None, None))
        for rows in self._passes:
            of_part = of_parts(self._thetas(rows), self._weights[rows], part, curvature_count(part))
            of_run = of_part[0].clone() if of_run is None else of_run  # row 0, and so in the first pass
            direct = source_gradients(self._step, run, batch, self._changed[rows])
            of_part -= of_run + self._changes[rows] * source_gradients(self._step, run, part, self._changed[rows])
            yield rows, whole + self._changes[rows] * direct + self._levers.curvature_weight * of_part

    def _thetas(self, rows: slice) -> Tensor:
        """Parameters of some replicas, where the run is computed."""
        return self._state.theta[rows].to(self._device)

    def tangents(self) -> Tensor:
        """δ_b (sources, P)."""
        return self._displacements(self.replicas)

    def tangent(self, number: int) -> Tensor:
        """δ_b (P,) of one of the sources."""
        return self._displacements(self._state.theta[self._rows_of(number)])[0]

    def _displacements(self, replicas: Tensor) -> Tensor:
        if self._central:
            return (replicas[1::2] - replicas[::2]) / (2 * self._epsilon)
        return (self._state.theta[0] - replicas) / self._epsilon

    def snapshot(self) -> tuple[TrainState, list[SourceState]]:
        """The run's state (P,), and of each source the states of its replicas (replicas, P)."""
        parts = [self._state.part(self._rows_of(number)) for number in range(self._sources)]
        return self._state.part(0), list(map(SourceState, parts))

    def resume(self, run: TrainState, sources: Iterable[SourceState]) -> None:
        """Continue from a snapshot of the same sources."""
        self._state.part(0).replace(run)
        for number, (state, _) in enumerate(sources):
            self._state.part(self._rows_of(number)).replace(state)

    @property
    def _sources(self) -> int:
        return (len(self._weights) - 1) // self._each
