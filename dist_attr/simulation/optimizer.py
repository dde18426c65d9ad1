"""The optimizer that DeepSpeed steps with: torch's own where it has the rule, else the rule of the simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dist_attr.config import TrainingConfig
from dist_attr.influence import Optimizer
from dist_attr.simulation.recipe import decays, optimizer_rule


class RuleOptimizer(torch.optim.Optimizer):
    """A functional update rule as a torch optimizer. Its state has the names of the rule's slots, and `step`."""

    def __init__(self, groups: Iterable[dict[str, Any]], rule: Optimizer, lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self._rule = rule

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply the rule to every parameter that has a gradient."""
        assert closure is None, "the loss is not evaluated again"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update({name: torch.zeros_like(parameter) for name in self._rule.slots}, step=0)
                slots = tuple(state[name] for name in self._rule.slots)
                theta, slots = self._rule.update(
                    parameter, slots, parameter.grad, group["lr"], state["step"], group["weight_decay"]
                )
                parameter.copy_(theta)
                for name, slot in zip(self._rule.slots, slots, strict=True):
                    state[name].copy_(slot)
                state["step"] += 1


def make_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """For the trainable parameters of a model; those that do not decay are a group of their own."""
    grouped: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            grouped[decays(name, training)].append(parameter)
    rates = {True: training.weight_decay, False: 0.0}
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": rates[kept]} for kept, parameters in grouped.items() if parameters
    ]
    rate = training.learning_rate
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=training.momentum, nesterov=training.nesterov)
    if training.eps_root == 0:
        adam = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
        return adam(groups, lr=rate, betas=training.betas, eps=training.eps)
    return RuleOptimizer(groups, optimizer_rule(training), rate)


def set_step(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Let an optimizer believe that it has made this many steps."""
    for state in optimizer.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"].fill_(step)
        elif "step" in state:
            state["step"] = step
