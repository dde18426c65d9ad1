"""From settings to the pieces of a training step, the same for DeepSpeed's engine and for the simulation."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dist_attr.config import TrainingConfig
from dist_attr.corpus import PackedCorpus
from dist_attr.errors import ConfigError
from dist_attr.influence import SGD, Adam, Batch, LearningRate, Optimizer, ParameterSpace, TrainingStep
from dist_attr.models import causal_forward


def optimizer_rule(training: TrainingConfig) -> Optimizer:
    """The functional update rule."""
    if training.optimizer == "sgd":
        return SGD(training.momentum, training.nesterov)
    return Adam(training.betas, training.eps, training.eps_root, decoupled=training.optimizer == "adamw")


def learning_rate(training: TrainingConfig) -> LearningRate:
    """The learning rate of each step."""
    return LearningRate(training.learning_rate, training.schedule, training.warmup_steps, training.steps)


def decays(name: str, training: TrainingConfig) -> bool:
    """Whether weight decay applies to the parameter of this name."""
    return not any(re.search(pattern, name) for pattern in training.no_decay)


def weight_decay(space: ParameterSpace, training: TrainingConfig) -> float | Tensor:
    """Of every parameter (P,), or one for all. Raises ConfigError when a pattern of `no_decay` matches nothing."""
    for pattern in training.no_decay:
        if not any(re.search(pattern, name) for name in space.names):
            raise ConfigError(f"training.no_decay: {pattern!r} is in no parameter's name; {', '.join(space.names)}")
    if not training.no_decay or training.weight_decay == 0:
        return training.weight_decay
    rates = torch.tensor([training.weight_decay * decays(name, training) for name in space.names])
    return rates.repeat_interleave(torch.tensor(space.sizes))


def training_step(model: nn.Module, training: TrainingConfig) -> TrainingStep:
    """Φ of a model in the space of its trainable parameters."""
    space, decay = ParameterSpace.of(model), weight_decay(ParameterSpace.of(model), training)
    return TrainingStep(
        causal_forward(model),
        space,
        optimizer_rule(training),
        learning_rate(training),
        training.gradient_clipping,
        decay if isinstance(decay, float) else decay.to(next(model.parameters()).device),
    )


def source_weights(names: Sequence[str], weights: dict[str, float]) -> Tensor:
    """w (S,): 1 but where set otherwise. Raises ConfigError for a name the corpus does not have."""
    if unknown := sorted(set(weights) - set(names)):
        raise ConfigError(
            f"training.source_weights: no source is called {', '.join(map(repr, unknown))}; "
            f"the corpus has {', '.join(map(repr, names))}"
        )
    return torch.tensor([weights.get(name, 1.0) for name in names])


def global_batch(corpus: PackedCorpus, rows: NDArray[np.int64]) -> Batch:
    """The sequences of one step: inputs, the next token at each position, and its source."""
    tokens = torch.from_numpy(corpus.tokens[rows].astype(np.int64))
    sources = torch.from_numpy(corpus.token_sources[rows].astype(np.int64))
    return Batch(tokens[:, :-1], tokens[:, 1:], sources[:, 1:])
