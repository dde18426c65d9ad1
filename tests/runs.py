"""Small runs on real transformers models: what the laws are tried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dist_attr.config import ModelConfig
from dist_attr.influence import SGD, Adam, Batch, LearningRate, Optimizer, ParameterSpace, TrainingStep, TrainState
from dist_attr.models import build_model, causal_forward

VOCABULARY, LENGTH, SOURCES = 19, 12, 4

MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_layer": 2, "n_embd": 16, "n_head": 2},
    "llama": {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
    },
}

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(),
    "momentum": SGD(momentum=0.9),
    "nesterov": SGD(momentum=0.9, nesterov=True),
    "adam": Adam(eps_root=1e-8, decoupled=False),
    "adamw": Adam(eps_root=1e-8),
}
RATES = {"sgd": 0.5, "momentum": 0.1, "nesterov": 0.1, "adam": 3e-3, "adamw": 3e-3}
DECAYS = {"sgd": 0.0, "momentum": 0.01, "nesterov": 0.01, "adam": 0.01, "adamw": 0.1}


@dataclass
class Run:
    """A model, its training step and its batches."""

    model: nn.Module
    step: TrainingStep
    theta: Tensor
    batches: list[Batch]

    @property
    def start(self) -> TrainState:
        """The state before the first step."""
        return self.step.initial(self.theta)

    def train(self, weights: Tensor) -> Tensor:
        """Final parameters of a whole run with these source weights."""
        state = self.step.initial(self.theta)
        for number, batch in enumerate(self.batches):
            state = self.step(state, weights, batch, number)
        return state.theta


def small_model(
    name: str, dtype: torch.dtype = torch.float32, seed: int = 0, trained: dict[str, Any] | None = None
) -> nn.Module:
    """A from-scratch model whose weights are large enough for its outputs to depend on everything."""
    model = build_model(
        ModelConfig(config=MODELS[name], **trained or {}),
        vocabulary=VOCABULARY,
        end_of_text=0,
        sequence_length=LENGTH,
        seed=seed,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype)


def small_batches(steps: int, batch_size: int = 6, seed: int = 1) -> list[Batch]:
    """Random tokens with mixed sources and some padding."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(steps):
        tokens = torch.randint(0, VOCABULARY, (batch_size, LENGTH + 1), generator=generator)
        sources = torch.randint(0, SOURCES, (batch_size, LENGTH), generator=generator)
        sources[-1, -4:] = -1
        batches.append(Batch(tokens[:, :-1], tokens[:, 1:], sources))
    return batches


def decay_of(space: ParameterSpace, rate: float, dtype: torch.dtype) -> float | Tensor:
    """A parameter group without decay, as users have it: vectors (biases and norms) do not decay."""
    if rate == 0:
        return 0.0
    decays = [rate * (len(shape) > 1) for shape in space.shapes]
    return torch.tensor(decays, dtype=dtype).repeat_interleave(torch.tensor(space.sizes))


def small_run(
    model: str = "gpt2",
    optimizer: str = "adamw",
    *,
    dtype: torch.dtype = torch.float64,
    steps: int = 6,
    clipping: float = 0.5,
    trained: dict[str, Any] | None = None,
) -> Run:
    """A run with warm-up, cosine schedule, clipping that bites, and weight decay."""
    module = small_model(model, dtype, trained=trained)
    space = ParameterSpace.of(module)
    rate = LearningRate(RATES[optimizer], "cosine", warmup_steps=2, steps=steps + 2)
    step = TrainingStep(
        causal_forward(module), space, OPTIMIZERS[optimizer], rate, clipping, decay_of(space, DECAYS[optimizer], dtype)
    )
    return Run(module, step, space.read(module), small_batches(steps))
