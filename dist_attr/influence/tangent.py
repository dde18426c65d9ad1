"""The tangent simulator: the forward-mode derivative of the training step, carried along the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dist_attr.influence.forward_mode import push_forward
from dist_attr.influence.levers import EXACT, Levers, curvature_count, source_gradients
from dist_attr.influence.loss import Batch
from dist_attr.influence.stacks import Stack, beside_the_run
from dist_attr.influence.training_step import SourceState, TrainingStep, TrainState, cache_blocks

Rows = slice | list[int]


class Gradient(NamedTuple):
    """A gradient (..., P) and the factor (..., 1) that clips it."""

    value: Tensor
    clip_factor: Tensor


class TangentSimulator:
    """(δθ_b, δs_b) ← DΦ_t(θ_t, s_t; w)[δθ_b, δs_b, e_b] for all its sources, over one primal pass.

    Exact over the whole run unless a lever is used: optimizer state included, no Hessian formed, nothing inverted. The
    chain rule is applied to the three parts of Φ in turn (gradient, clipping, update), so that the last, elementwise
    one can go block by block. The forward-mode product also returns the unperturbed step, which is `parameters`.

    Only active sources cost anything. The tangent of a source that was in no batch yet is zero, exactly; with a horizon
    the sources that were not in the last so many batches are frozen too.
    """

    def __init__(
        self,
        training_step: TrainingStep,
        start: TrainState,
        weights: Tensor,
        sources: Sequence[int],
        *,
        levers: Levers = EXACT,
        sources_per_pass: int = 8,
        stack: Stack = beside_the_run,
    ) -> None:
        self._step = training_step
        self._weights = weights
        self._sources, self._own = list(sources), torch.tensor(sources, dtype=torch.int64)
        self._levers = levers
        self._per_pass = sources_per_pass
        self._last_seen = torch.full((len(self._sources),), -1)
        self._state = start
        self._tangent = start.zeros(len(self._sources), stack)

    @property
    def parameters(self) -> Tensor:
        """The unperturbed parameters (P,)."""
        return self._state.theta

    def advance(self, batch: Batch, step: int) -> int:
        """Push every active tangent through one step of the run; how many there are."""
        self._last_seen[torch.isin(self._own, torch.tensor(list(batch.present), dtype=torch.int64))] = step
        active = self._active(step)
        part = self._levers.curvature_batch(batch, step)
        strength = self._levers.strength(step)
        at_once = part is batch and strength > 0
        gradient = None if at_once else self._clipped(self._state.theta, self._weights, batch)
        for rows in self._passes(active):
            if gradient is None or at_once:
                gradient, tangents = self._derivative(rows, batch, strength * self._levers.curvature_weight)
            else:
                tangents = self._derivative_by_parts(rows, batch, part, strength, gradient)
            for columns in cache_blocks(tangents.value, elements=2**18):
                self._update(rows, columns, gradient, tangents, step)
        if gradient is None:
            gradient = self._clipped(self._state.theta, self._weights, batch)
        self._state = self._step.update(self._state, gradient.value, gradient.clip_factor, step)
        return len(active)

    def _active(self, step: int) -> list[int]:
        """The rows that a step moves."""
        active = self._last_seen >= 0
        if self._levers.horizon is not None:
            active &= step - self._last_seen < self._levers.horizon
        rows: list[int] = active.nonzero().squeeze(1).tolist()
        return rows

    def _passes(self, active: list[int]) -> list[Rows]:
        """The active rows, divided; as slices where they are neighbours, so that nothing is copied."""
        parts = [active[first : first + self._per_pass] for first in range(0, len(active), self._per_pass)]
        return [slice(p[0], p[-1] + 1) if p[-1] - p[0] == len(p) - 1 else p for p in parts]

    def _clipped(self, theta: Tensor, weights: Tensor, batch: Batch) -> Gradient:
        value = self._step.gradient(theta, weights, batch)
        return Gradient(value, self._step.clip_factor(value))

    def _derivative(self, rows: Rows, batch: Batch, strength: float) -> tuple[Gradient, Gradient]:
        """The gradient and its derivatives, direct term and so much of the curvature in one forward-mode product."""
        theta = self._thetas(rows)
        return push_forward(
            lambda theta, weights: self._clipped(theta, weights, batch),
            (self._state.theta, self._weights),
            (theta if strength == 1 else strength * theta, self._directions(rows)),
        )

    def _derivative_by_parts(
        self, rows: Rows, batch: Batch, part: Batch, strength: int, gradient: Gradient
    ) -> Gradient:
        """The derivatives of a known gradient, the curvature from a part of the batch, or none."""
        theta = self._state.theta
        value = source_gradients(self._step, theta, batch, self._sources_of(rows))
        if strength:
            _, curvature = push_forward(
                lambda theta: self._step.gradient(theta, self._weights, part, curvature_count(part)),
                (theta,),
                (self._thetas(rows),),
            )
            value.add_(curvature, alpha=strength * self._levers.curvature_weight)
        _, clip_factor = push_forward(self._step.clip_factor, (gradient.value,), (value,))
        return Gradient(value, clip_factor)

    def _update(self, rows: Rows, columns: slice, gradient: Gradient, tangents: Gradient, step: int) -> None:
        def update(state: TrainState, gradient: Gradient) -> TrainState:
            return self._step.update(state, gradient.value, gradient.clip_factor, step, columns)

        _, new = push_forward(
            update,
            (self._state.part(columns), Gradient(gradient.value[columns], gradient.clip_factor)),
            (
                self._tangent.part(rows, columns).to(self._state.theta.device),
                Gradient(tangents.value[:, columns], tangents.clip_factor),
            ),
        )
        self._tangent.put(new, rows, columns)

    def _thetas(self, rows: Rows) -> Tensor:
        """δθ_b of some sources, where the run is computed."""
        return self._tangent.theta[rows].to(self._state.theta.device)

    def _sources_of(self, rows: Rows) -> list[int]:
        return self._sources[rows] if isinstance(rows, slice) else [self._sources[row] for row in rows]

    def _directions(self, rows: Rows) -> Tensor:
        """e_b of some sources, (rows, S)."""
        sources = self._sources_of(rows)
        directions = self._weights.new_zeros(len(sources), len(self._weights))
        directions[range(len(sources)), sources] = 1
        return directions

    def tangents(self) -> Tensor:
        """δθ_b (sources, P)."""
        return self._tangent.theta

    def tangent(self, number: int) -> Tensor:
        """δθ_b (P,) of one of the sources."""
        return self._tangent.theta[number]

    def snapshot(self) -> tuple[TrainState, list[SourceState]]:
        """The run's state (P,), and of each source its tangent (1, P)."""
        tangents = (self._tangent.part(slice(row, row + 1)) for row in range(len(self._sources)))
        return self._state, list(map(SourceState, tangents, self._last_seen.tolist()))

    def resume(self, run: TrainState, sources: Iterable[SourceState]) -> None:
        """Continue from a snapshot of the same sources."""
        self._state = run
        for row, (tangent, last_seen) in enumerate(sources):
            self._tangent.put(tangent, slice(row, row + 1))
            self._last_seen[row] = last_seen
