"""Optimizers as pure functions of parameters, state and gradient.

An update is elementwise: the same function serves one parameter tensor inside DeepSpeed's optimizer, a block of many
replicas, and its own derivative. The names of the state tensors are those of torch's optimizers, so that a run's own
state can be read into the simulation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Slots = tuple[Tensor, ...]


class Optimizer(Protocol):
    """An elementwise update rule whose state tensors, one for each of `slots`, are all zero at first."""

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state tensors."""
        ...

    def update(
        self, theta: Tensor, slots: Slots, gradient: Tensor, rate: float, step: int, weight_decay: float | Tensor
    ) -> tuple[Tensor, Slots]:
        """New parameters and state after step 0, 1, ...; tensors of any one shape, or broadcast to it."""
        ...


@dataclass(frozen=True)
class SGD:
    """torch.optim.SGD: momentum without dampening, Nesterov's or not; weight decay is added to the gradient."""

    momentum: float = 0.0
    nesterov: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        """The momentum buffer, if any."""
        return ("momentum_buffer",) if self.momentum else ()

    def update(
        self, theta: Tensor, slots: Slots, gradient: Tensor, rate: float, step: int, weight_decay: float | Tensor
    ) -> tuple[Tensor, Slots]:
        """g ← g + λθ; v ← μv + g; θ ← θ − ηv, with Nesterov θ ← θ − η(g + μv). The rule is the same at every step."""
        del step
        gradient = _with_decay(gradient, theta, weight_decay)
        if not self.momentum:
            return theta - rate * gradient, ()
        velocity = self.momentum * slots[0] + gradient
        way = gradient + self.momentum * velocity if self.nesterov else velocity
        return theta - rate * way, (velocity,)


@dataclass(frozen=True)
class Adam:
    """Adam: θ ← θ − η m̂ / (√(v̂ + eps_root) + eps); with decoupled weight decay (AdamW) θ ← (1 − ηλ)θ − ... .

    With eps_root = 0 these are torch.optim.Adam and AdamW, and DeepSpeed's FusedAdam and CPUAdam, which compute the
    same. The derivative of √v grows without bound where the second moment is near zero; eps_root bounds it, and has to
    be the same in the training run and in its simulation.

    Attributes:
        betas: decay of the first and of the second moment.
        eps: added to the root.
        eps_root: added under the root.
        decoupled: the parameters decay by themselves (AdamW), instead of λθ being added to the gradient (Adam).
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_root: float = 0.0
    decoupled: bool = True

    @property
    def slots(self) -> tuple[str, ...]:
        """First and second moment."""
        return ("exp_avg", "exp_avg_sq")

    def update(
        self, theta: Tensor, slots: Slots, gradient: Tensor, rate: float, step: int, weight_decay: float | Tensor
    ) -> tuple[Tensor, Slots]:
        """One step; the bias corrections count steps from 1."""
        if not self.decoupled:
            gradient = _with_decay(gradient, theta, weight_decay)
        beta1, beta2 = self.betas
        first = beta1 * slots[0] + (1 - beta1) * gradient
        second = beta2 * slots[1] + (1 - beta2) * gradient.square()
        correction1, correction2 = 1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)
        root = (
            _sqrt(second / correction2 + self.eps_root)
            if self.eps_root == 0
            else (second / correction2 + self.eps_root).sqrt()
        )
        kept = theta * (1 - rate * weight_decay) if self.decoupled else theta
        return kept - (rate / correction1) * first / (root + self.eps), (first, second)


def _with_decay(gradient: Tensor, theta: Tensor, weight_decay: float | Tensor) -> Tensor:
    if isinstance(weight_decay, float) and weight_decay == 0:
        return gradient
    return gradient + weight_decay * theta


def _sqrt(x: Tensor) -> Tensor:
    """√x whose derivative at 0 is 0: a parameter that never had a gradient does not move with any source's weight."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)
