"""The training run itself: a DeepSpeed engine on this worker's part of each global batch."""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dist_attr.config import TrainingConfig
from dist_attr.influence import Batch, ParameterSpace, TrainState, weighted_loss
from dist_attr.simulation.deepspeed_settings import deepspeed_settings
from dist_attr.simulation.optimizer import make_optimizer, set_step
from dist_attr.simulation.recipe import learning_rate, optimizer_rule


class Trainer:
    """One data-parallel worker of the run. The process group must exist already.

    `state`, `parameters` and `restore` are collective: whatever a ZeRO stage has spread over the workers is gathered
    there, one parameter after the other, and nowhere else. All workers call them together.
    """

    def __init__(self, model: nn.Module, training: TrainingConfig, rank: int, workers: int) -> None:
        deepspeed = _import_deepspeed()
        self._rank, self._workers, self._accumulation = rank, workers, training.accumulation_steps
        self._rate, self._slots = learning_rate(training), optimizer_rule(training).slots
        self._space = ParameterSpace.of(model)
        # ZeRO 3 takes the parameters out of the model, bf16 rounds them: what repeats the steps then needs its own. It
        # computes in float32 all the same, since differences of bf16 runs drown in rounding; frozen layers are rounded.
        own = training.zero_stage == 3 or training.precision == "bf16"
        self._whole = copy.deepcopy(model) if own else None
        if self._whole is not None and training.precision == "bf16":
            for parameter in self._whole.parameters():
                parameter.data = parameter.data.bfloat16().float()
        self._base, self._stepped = make_optimizer(model, training), False
        # Of these two nothing is hidden: the optimizer holds the model's own parameters.
        self._plain = training.zero_stage == 0 and training.precision == "fp32"
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=self._base,
            config=deepspeed_settings(training, workers),
            dist_init_required=False,
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self._engine.device)

    @property
    def whole(self) -> nn.Module:
        """A model to call with other parameters; its own are not the present ones under every ZeRO stage."""
        module = self._engine.module if self._whole is None else self._whole.to(self.device)
        assert isinstance(module, nn.Module)
        return module

    def parameters(self) -> Tensor:
        """DeepSpeed's present parameters in float32 (P,); of bf16 training the master copy. Collective."""
        return torch.cat([self._read(parameter, None).reshape(-1) for parameter in self._trained()])

    def state(self) -> TrainState:
        """Parameters and optimizer state, (P,) each. Collective."""
        self._link_states()
        theta = self.parameters()
        if not self._stepped:  # DeepSpeed has no optimizer state to show yet
            return TrainState(theta, tuple(torch.zeros_like(theta) for _ in self._slots))
        slots = [
            torch.cat([self._read(parameter, name).reshape(-1) for parameter in self._trained()])
            for name in self._slots
        ]
        return TrainState(theta, tuple(slots))

    def restore(self, state: TrainState, batch: Batch, step: int) -> None:
        """Continue with this state as if so many steps had been made; any batch will do. Collective."""
        # DeepSpeed makes the optimizer's state in its first step: one that changes nothing.
        self._train_on(batch, torch.zeros(int(batch.sources.max()) + 1, device=self.device), 0.0)
        self._link_states()
        for name, vector in zip((None, *self._slots), (state.theta, *state.slots), strict=True):
            values = self._space.unflatten(vector.to(self.device))
            for parameter, value in zip(self._trained(), values.values(), strict=True):
                self._write(parameter, name, value)
        set_step(self._base, step)
        if hasattr(self._optimizer, "update_lp_params"):
            self._optimizer.update_lp_params()

    def step(self, batch: Batch, weights: Tensor, step: int) -> float:
        """One step on this worker's part of a global batch; its part of the global weighted loss, in nats."""
        return self._train_on(batch, weights, self._rate(step))

    def _train_on(self, batch: Batch, weights: Tensor, rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss, self._stepped = 0.0, True
        for part in self._parts(batch):
            logits = self._engine(input_ids=part.inputs, use_cache=False).logits
            share = weighted_loss(logits.float(), part, weights, batch.count)
            # DeepSpeed averages over workers and parts, the global loss is the sum of their shares.
            self._engine.backward(share * (self._workers * self._accumulation))
            self._engine.step()
            loss += float(share.detach())
        return loss

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """This worker's micro-batches of a global batch."""
        rows = len(batch.inputs) // (self._workers * self._accumulation)
        for micro in range(self._accumulation):
            start = (micro * self._workers + self._rank) * rows
            yield batch.part(slice(start, start + rows))

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._engine.module.parameters() if parameter.requires_grad]

    def _link_states(self) -> None:
        """Let ZeRO 1 and 2 find the optimizer's state of all parameter groups.

        They look for it once, after the first group's first step, when the other groups have none yet.
        """
        if hasattr(self._optimizer, "_lazy_init_hp_params_optimizer_state") and self._base.state:
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()

    def _read(self, parameter: nn.Parameter, slot: str | None) -> Tensor:
        """The float32 value of a parameter, or of one of its optimizer's state tensors."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if slot is None:
            value = parameter.detach() if self._plain else safe_get_full_fp32_param(parameter)
        elif self._plain:
            value = self._base.state[parameter][slot]
        else:
            value = safe_get_full_optimizer_state(parameter, slot)
        return value.to(self.device)

    @torch.no_grad()
    def _write(self, parameter: nn.Parameter, slot: str | None, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if self._plain:
            (parameter if slot is None else self._base.state[parameter][slot]).copy_(value)
        elif slot is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, slot)


def _import_deepspeed() -> Any:
    operations = importlib.import_module("deepspeed.ops")
    # Else the first process group compiles a shared-memory kernel for a minute. It is private, so it may be gone.
    compatible = getattr(operations, "__compatible_ops__", {})
    if "deepspeed_shm_comm" in compatible:
        compatible["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return importlib.import_module("deepspeed")
