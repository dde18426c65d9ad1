"""The training run."""

from __future__ import annotations

import json
from typing import Any, Literal, Self

import fsspec
from pydantic import Field, field_validator, model_validator

from dist_attr.config.base import Settings, check_pattern

OptimizerName = Literal["adamw", "adam", "sgd"]
PrecisionName = Literal["fp32", "bf16"]
ScheduleName = Literal["constant", "linear", "cosine"]


class TrainingConfig(Settings):
    """The training run that is simulated. Learning rates are per step."""

    steps: int = Field(150, ge=1)
    batch_size: int = Field(16, ge=1, description="sequences in the global batch")
    sequence_length: int = Field(64, ge=2, description="tokens of context")
    optimizer: OptimizerName = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    schedule: ScheduleName = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0, description="decoupled with adamw, added to the gradient with the others")
    no_decay: tuple[str, ...] = Field(
        (),
        description='regular expressions; parameters whose name one is found in do not decay, as in ["bias", "norm"]',
    )
    gradient_clipping: float = Field(1.0, ge=0, description="largest global norm of the gradient; 0 for none")
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, ge=0)
    eps_root: float = Field(
        1e-8, ge=0, description="added under Adam's square root, in the run and in the simulation; 0 is torch's Adam"
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="of SGD")
    nesterov: bool = Field(False, description="Nesterov's momentum, of SGD")
    seed: int = Field(0, ge=0, description="of the initial weights and the batch order")
    source_weights: dict[str, float] = Field(default_factory=dict, description="weights other than 1; 0 removes")
    accumulation_steps: int = Field(1, ge=1, description="micro-batches whose gradients make up a step's")
    precision: PrecisionName = Field("fp32", description="bf16 computes in bfloat16 and keeps a float32 master copy")
    zero_stage: Literal[0, 1, 2, 3] = 0
    deepspeed: dict[str, Any] = Field(
        default_factory=dict,
        description="more of DeepSpeed's own configuration, here or as the path of a JSON file",
    )

    @field_validator("deepspeed", mode="before")
    @classmethod
    def _read_deepspeed(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            with fsspec.open(value, encoding="utf-8", mode="r") as file:
                return json.load(file)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read DeepSpeed's configuration from {value}: {error}") from error

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be smaller than steps ({self.steps})")
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ValueError("bf16 needs zero_stage 1, 2 or 3; at 0 DeepSpeed hides its float32 master copy")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        if self.optimizer != "sgd" and self.momentum:
            raise ValueError(f"momentum belongs to sgd; {self.optimizer} has betas")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0")
        if self.optimizer != "sgd" and self.eps == 0 and self.eps_root == 0:
            raise ValueError(f"{self.optimizer} needs eps or eps_root above 0")
        for pattern in self.no_decay:
            check_pattern("no_decay", pattern)
        return self
