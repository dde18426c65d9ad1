"""Optimizers as pure functions of parameters, state and gradient.

An update is elementwise: the same function serves one parameter tensor inside DeepSpeed's optimizer, a block of many
replicas, and its own derivative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Slots = tuple[Tensor, ...]


class Optimizer(Protocol):
    """An elementwise update rule with `slots` state tensors per parameter, all of them zero at first."""

    @property
    def slots(self) -> int:
        """Number of state tensors."""
        ...

    def update(self, theta: Tensor, slots: Slots, gradient: Tensor, rate: float, step: int) -> tuple[Tensor, Slots]:
        """New parameters and state after step 0, 1, ...; tensors of any one shape."""
        ...


@dataclass(frozen=True)
class SGD:
    """torch.optim.SGD: momentum without dampening, weight decay added to the gradient."""

    momentum: float = 0.0
    weight_decay: float = 0.0

    @property
    def slots(self) -> int:
        """The momentum buffer, if any."""
        return 1 if self.momentum else 0

    def update(self, theta: Tensor, slots: Slots, gradient: Tensor, rate: float, step: int) -> tuple[Tensor, Slots]:
        """v ← μv + g + λθ; θ ← θ − ηv. The rule is the same at every step."""
        del step
        if self.weight_decay:
            gradient = gradient + self.weight_decay * theta
        if not self.momentum:
            return theta - rate * gradient, ()
        velocity = self.momentum * slots[0] + gradient
        return theta - rate * velocity, (velocity,)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay: θ ← (1 − ηλ)θ − η m̂ / (√(v̂ + eps_root) + eps).

    With eps_root = 0 this is torch.optim.AdamW. The derivative of √v grows without bound where the second moment is
    near zero; eps_root bounds it, and has to be the same in the training run and in its simulation.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_root: float = 0.0
    weight_decay: float = 0.0

    @property
    def slots(self) -> int:
        """First and second moment."""
        return 2

    def update(self, theta: Tensor, slots: Slots, gradient: Tensor, rate: float, step: int) -> tuple[Tensor, Slots]:
        """One AdamW step; the bias corrections count steps from 1."""
        beta1, beta2 = self.betas
        first = beta1 * slots[0] + (1 - beta1) * gradient
        second = beta2 * slots[1] + (1 - beta2) * gradient.square()
        correction1, correction2 = 1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)
        root = (
            _sqrt(second / correction2 + self.eps_root)
            if self.eps_root == 0
            else (second / correction2 + self.eps_root).sqrt()
        )
        theta = theta * (1 - rate * self.weight_decay) - (rate / correction1) * first / (root + self.eps)
        return theta, (first, second)


def _sqrt(x: Tensor) -> Tensor:
    """√x whose derivative at 0 is 0: a parameter that never had a gradient does not move with any source's weight."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)
