"""The tangent simulator: the forward-mode derivative of the training step, carried along the run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import jvp, vmap

from dist_attr.influence.loss import Batch
from dist_attr.influence.training_step import TrainingStep, TrainState, cache_blocks


class TangentSimulator:
    """(δθ_b, δs_b) ← DΦ_t(θ_t, s_t; w)[δθ_b, δs_b, e_b] for all its sources, over one primal pass.

    Exact over the whole run: optimizer state included, no Hessian formed, nothing inverted. The chain rule is applied
    to the three parts of Φ in turn (gradient, clipping, update), so that the last, elementwise one can go block by
    block. The forward-mode product also returns the unperturbed step, which is `parameters`.
    """

    def __init__(
        self,
        training_step: TrainingStep,
        theta: Tensor,
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
        self._state = training_step.initial(theta)
        self._tangent = training_step.initial(torch.zeros(rows, len(theta), dtype=theta.dtype, device=theta.device))

    @property
    def parameters(self) -> Tensor:
        """The unperturbed parameters (P,)."""
        return self._state.theta

    def advance(self, batch: Batch, step: int) -> None:
        """Push every tangent through one step of the run."""
        gradient: Tensor | None = None
        for rows in self._passes:
            gradient, gradient_tangent = self._gradient(rows, batch)
            for columns in cache_blocks(*gradient_tangent.shape, gradient_tangent.device, elements=2**18):
                self._update_tangent(rows, columns, gradient, gradient_tangent, step)
        if gradient is None:
            gradient = self._step.clip(self._step.gradient(self._state.theta, self._weights, batch))
        self._state = self._step.update(self._state, gradient, step)

    def _gradient(self, rows: slice, batch: Batch) -> tuple[Tensor, Tensor]:
        """The clipped gradient (P,) and its derivatives (rows, P)."""

        def push(theta_tangent: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
            gradient, tangent = jvp(
                lambda theta, weights: self._step.gradient(theta, weights, batch),
                (self._state.theta, self._weights),
                (theta_tangent, direction),
            )
            return jvp(self._step.clip, (gradient,), (tangent,))  # type: ignore[no-any-return]

        pushed = vmap(push, out_dims=(None, 0))(self._tangent.theta[rows], self._directions[rows])
        return pushed[0], pushed[1]

    def _update_tangent(self, rows: slice, columns: slice, gradient: Tensor, tangent: Tensor, step: int) -> None:
        primal = (TrainState(self._state.theta[columns], tuple(s[columns] for s in self._state.slots)), gradient[columns])
        old = TrainState(self._tangent.theta[rows, columns], tuple(s[rows, columns] for s in self._tangent.slots))

        def push(theta: Tensor, slots: tuple[Tensor, ...], tangent: Tensor) -> TrainState:
            _, pushed = jvp(
                lambda state, gradient: self._step.update(state, gradient, step),
                primal,
                (TrainState(theta, slots), tangent),
            )
            return pushed  # type: ignore[no-any-return]

        new = vmap(push)(old.theta, old.slots, tangent[:, columns])
        old.theta.copy_(new.theta)
        for before, after in zip(old.slots, new.slots, strict=True):
            before.copy_(after)

    def tangents(self) -> Tensor:
        """δθ_b (sources, P)."""
        return self._tangent.theta
