"""The training run itself: a DeepSpeed engine on this worker's part of each global batch."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dist_attr.config import TrainingConfig
from dist_attr.influence import Batch, Optimizer, ParameterSpace, weighted_loss
from dist_attr.simulation.recipe import learning_rate, optimizer_rule


class RuleOptimizer(torch.optim.Optimizer):
    """A functional update rule as a torch optimizer, for the rules torch does not have."""

    def __init__(self, parameters: Iterable[Tensor], rule: Optimizer, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})
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
                slots = state.get("slots", tuple(torch.zeros_like(parameter) for _ in range(self._rule.slots)))
                step = state.get("step", 0)
                theta, slots = self._rule.update(parameter, slots, parameter.grad, group["lr"], step)
                parameter.copy_(theta)
                state["slots"], state["step"] = slots, step + 1


def torch_optimizer(parameters: Iterable[Tensor], training: TrainingConfig) -> torch.optim.Optimizer:
    """torch's own optimizer where it has the rule, else the rule itself."""
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=training.learning_rate, momentum=training.momentum, weight_decay=training.weight_decay
        )
    if training.eps_root == 0:
        return torch.optim.AdamW(
            parameters,
            lr=training.learning_rate,
            betas=training.betas,
            eps=training.eps,
            weight_decay=training.weight_decay,
        )
    return RuleOptimizer(parameters, optimizer_rule(training), training.learning_rate)


class Trainer:
    """One data-parallel worker of the run. The process group must exist already."""

    def __init__(self, model: nn.Module, training: TrainingConfig, rank: int, workers: int) -> None:
        deepspeed = _import_deepspeed()
        self._rank, self._workers = rank, workers
        self._rate = learning_rate(training)
        self._space = ParameterSpace.of(model)
        settings = {
            "train_batch_size": training.batch_size,
            "train_micro_batch_size_per_gpu": training.batch_size // workers,
            "gradient_accumulation_steps": 1,
            # Always stated: DeepSpeed's own default is to clip at 1.
            "gradient_clipping": training.gradient_clipping,
            "zero_optimization": {"stage": training.zero_stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
        }
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=torch_optimizer([p for p in model.parameters() if p.requires_grad], training),
            config=settings,
            dist_init_required=False,
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self._engine.device)

    @property
    def module(self) -> nn.Module:
        """The model, with DeepSpeed's present parameters."""
        module = self._engine.module
        assert isinstance(module, nn.Module)
        return module

    def parameters(self) -> Tensor:
        """DeepSpeed's present parameters (P,)."""
        return self._space.read(self.module)

    def step(self, batch: Batch, weights: Tensor, step: int) -> float:
        """One step on this worker's part of a global batch; its part of the global weighted loss, in nats."""
        rows = len(batch.inputs) // self._workers
        part = batch.part(slice(self._rank * rows, (self._rank + 1) * rows))
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(step)
        logits = self._engine(input_ids=part.inputs, use_cache=False).logits
        loss = weighted_loss(logits, part, weights, batch.count)
        # DeepSpeed averages the gradients of the workers, the global loss is the sum of their parts.
        self._engine.backward(loss * self._workers)
        self._engine.step()
        return float(loss.detach())


def _import_deepspeed() -> Any:
    operations = importlib.import_module("deepspeed.ops")
    # Else the first process group compiles a shared-memory kernel for a minute. It is private, so it may be gone.
    compatible = getattr(operations, "__compatible_ops__", {})
    if "deepspeed_shm_comm" in compatible:
        compatible["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return importlib.import_module("deepspeed")
