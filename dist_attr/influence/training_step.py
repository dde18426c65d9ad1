"""The training step Φ: gradient of the weighted loss, global-norm clipping, optimizer, learning-rate schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dist_attr.influence.loss import Batch, weighted_loss
from dist_attr.influence.optimizers import Optimizer, Slots
from dist_attr.influence.parameters import Forward, ParameterSpace
from dist_attr.influence.stacks import Stack, beside_the_run


class TrainState(NamedTuple):
    """Parameters and optimizer state, (P,) each, or (R, P) for R replicas."""

    theta: Tensor
    slots: Slots

    def part(self, *index: slice | int | list[int]) -> TrainState:
        """Some replicas or parameters: views, or a copy of replicas chosen by a list."""
        return TrainState(self.theta[index], tuple(slot[index] for slot in self.slots))

    def put(self, new: TrainState, *index: slice | int | list[int]) -> None:
        """Overwrite some replicas or parameters in place; the new ones may lie on another device."""
        for mine, value in zip((self.theta, *self.slots), (new.theta, *new.slots), strict=True):
            mine[index] = value.to(mine.device)

    def to(self, device: torch.device) -> TrainState:
        """The same on a device, itself if it lies there."""
        return TrainState(*_each(self, lambda tensor: tensor.to(device)))

    def expand(self, rows: int, stack: Stack = beside_the_run) -> TrainState:
        """A stack of copies (rows, P) of one state (P,)."""
        return TrainState(*_each(self, lambda tensor: stack(rows, tensor).copy_(tensor)))

    def zeros(self, rows: int, stack: Stack = beside_the_run) -> TrainState:
        """A stack (rows, P) of zeros like one state (P,)."""
        return TrainState(*_each(self, lambda tensor: stack(rows, tensor)))

    def replace(self, new: TrainState) -> None:
        """Overwrite the values in place, also those that this is a view of; the new ones may lie on another device."""
        self.theta.copy_(new.theta)
        for slot, value in zip(self.slots, new.slots, strict=True):
            slot.copy_(value)


class SourceState(NamedTuple):
    """All that is needed to continue with one source.

    Attributes:
        state: its replicas' parameters and optimizer state, or its tangents of these, (any, P).
        last_seen: the last step whose batch held it, -1 for none; what a horizon counts from. Replicas have no use
            for it.
    """

    state: TrainState
    last_seen: int = -1

    def to(self, device: torch.device) -> SourceState:
        """The same on a device."""
        return SourceState(self.state.to(device), self.last_seen)


def _each(state: TrainState, change: Callable[[Tensor], Tensor]) -> tuple[Tensor, Slots]:
    return change(state.theta), tuple(map(change, state.slots))


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """(θ_{t+1}, s_{t+1}) = Φ_t(θ_t, s_t; w), a pure function.

    Attributes:
        forward: the model.
        space: its parameter space.
        optimizer: the elementwise update rule.
        rate: learning rate of each step.
        clipping: largest global norm of the gradient, 0 for none.
        weight_decay: one for all parameters, or of each, (P,).
    """

    forward: Forward
    space: ParameterSpace
    optimizer: Optimizer
    rate: Callable[[int], float]
    clipping: float = 0.0
    weight_decay: float | Tensor = 0.0

    def initial(self, theta: Tensor) -> TrainState:
        """The state before step 0, at parameters (P,)."""
        return TrainState(theta.clone(), tuple(torch.zeros_like(theta) for _ in self.optimizer.slots))

    def gradient(self, theta: Tensor, weights: Tensor, batch: Batch, count: int | None = None) -> Tensor:
        """dL_t/dθ (P,) at parameters (P,) and source weights (S,); of a part of the batch for `count` targets."""

        def loss(theta: Tensor) -> Tensor:
            logits = self.forward(self.space.unflatten(theta), batch.inputs)
            return weighted_loss(logits, batch, weights, batch.count if count is None else count)

        gradient = torch.func.grad(loss)(theta)
        assert isinstance(gradient, Tensor)
        return gradient

    def clip_factor(self, gradient: Tensor) -> Tensor:
        """What a gradient (..., P) is scaled by to stay within the largest norm, (..., 1): DeepSpeed's formula."""
        if self.clipping == 0:
            return gradient.new_ones(*gradient.shape[:-1], 1)
        norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
        factor: Tensor = self.clipping / (norm + 1e-6)
        return factor.clamp(max=1.0)

    def update(
        self, state: TrainState, gradient: Tensor, clip_factor: Tensor, step: int, columns: slice = slice(None)
    ) -> TrainState:
        """What the optimizer makes of a gradient; elementwise, any one shape that ends in these columns of P."""
        theta, slots = state
        decay = self.weight_decay if isinstance(self.weight_decay, float) else self.weight_decay[columns]
        return TrainState(*self.optimizer.update(theta, slots, gradient * clip_factor, self.rate(step), step, decay))

    def __call__(self, state: TrainState, weights: Tensor, batch: Batch, step: int) -> TrainState:
        """One whole step for one parameter vector."""
        gradient = self.gradient(state.theta, weights, batch)
        return self.update(state, gradient, self.clip_factor(gradient), step)


def cache_blocks(stack: Tensor, elements: int = 2**16) -> list[slice]:
    """Column ranges of a stack (rows, columns) that are worked on while they stay in a CPU's cache.

    An update makes a dozen passes over its operands; out of the cache they cost as much as a sixth of the gradient.
    A GPU gets everything at once.
    """
    rows, columns = stack.shape
    width = columns if stack.device.type != "cpu" else max(1, elements // max(1, rows))
    return [slice(start, min(start + width, columns)) for start in range(0, columns, width)]
