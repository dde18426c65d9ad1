"""The tangent simulator: the forward-mode derivative of the training step, carried along the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dist_attr.influence.forward_mode import push_forward
from dist_attr.influence.loss import Batch
from dist_attr.influence.training_step import TrainingStep, TrainState, cache_blocks


class Gradient(NamedTuple):
    """A gradient (..., P) and the factor (..., 1) that clips it."""

    value: Tensor
    clip_factor: Tensor


class TangentSimulator:
    """(δθ_b, δs_b) ← DΦ_t(θ_t, s_t; w)[δθ_b, δs_b, e_b] for all its sources, over one primal pass.

    Exact over the whole run: optimizer state included, no Hessian formed, nothing inverted. The chain rule is applied
    to the three parts of Φ in turn (gradient, clipping, update), so that the last, elementwise one can go block by
    block. The forward-mode product also returns the unperturbed step, which is `parameters`.
    """

    def __init__(
        self,
        training_step: TrainingStep,
        start: TrainState,
        weights: Tensor,
        sources: Sequence[int],
        *,
        sources_per_pass: int = 8,
    ) -> None:
        self._step = training_step
        self._weights = weights
        self._directions = torch.eye(len(weights), dtype=weights.dtype, device=weights.device)[list(sources)]
        rows = len(sources)
        self._passes = [slice(start, min(start + sources_per_pass, rows)) for start in range(0, rows, sources_per_pass)]
        self._state = start
        self._tangent = start.zeros(rows)

    @property
    def parameters(self) -> Tensor:
        """The unperturbed parameters (P,)."""
        return self._state.theta

    def advance(self, batch: Batch, step: int) -> None:
        """Push every tangent through one step of the run."""

        def clipped(theta: Tensor, weights: Tensor) -> Gradient:
            value = self._step.gradient(theta, weights, batch)
            return Gradient(value, self._step.clip_factor(value))

        at = (self._state.theta, self._weights)
        gradient: Gradient | None = None
        for rows in self._passes:
            gradient, tangents = push_forward(clipped, at, (self._tangent.theta[rows], self._directions[rows]))
            for columns in cache_blocks(tangents.value, elements=2**18):
                self._update(rows, columns, gradient, tangents, step)
        if gradient is None:
            gradient = clipped(*at)
        self._state = self._step.update(self._state, gradient.value, gradient.clip_factor, step)

    def _update(self, rows: slice, columns: slice, gradient: Gradient, tangents: Gradient, step: int) -> None:
        def update(state: TrainState, gradient: Gradient) -> TrainState:
            return self._step.update(state, gradient.value, gradient.clip_factor, step, columns)

        old = self._tangent.part(rows, columns)
        _, new = push_forward(
            update,
            (self._state.part(columns), Gradient(gradient.value[columns], gradient.clip_factor)),
            (old, Gradient(tangents.value[:, columns], tangents.clip_factor)),
        )
        old.replace(new)

    def tangents(self) -> Tensor:
        """δθ_b (sources, P)."""
        return self._tangent.theta

    def snapshot(self) -> tuple[TrainState, list[TrainState]]:
        """The run's state (P,), and of each source its tangent (1, P)."""
        return self._state, [self._tangent.part(slice(row, row + 1)) for row in range(len(self._tangent.theta))]

    def resume(self, run: TrainState, sources: Sequence[TrainState]) -> None:
        """Continue from a snapshot of the same sources."""
        self._state = run
        for row, state in enumerate(sources):
            self._tangent.part(slice(row, row + 1)).replace(state)
