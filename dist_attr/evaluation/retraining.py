"""Ground truth: the model that plain torch trains with other source weights.

Nothing here is shared with the simulation but the learning-rate schedule, the packed corpus and the batch order: the
model is called as transformers means it, autograd runs backward, and torch's own optimizers and clipping do the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dist_attr.config import TrainingConfig
from dist_attr.corpus import PackedCorpus, batch_schedule
from dist_attr.influence import LearningRate
from dist_attr.readout import EncodedQuery


def retrain(
    model: nn.Module, corpus: PackedCorpus, training: TrainingConfig, source_weights: Sequence[float]
) -> nn.Module:
    """Train a model as the run was trained, but with these source weights.

    Minimises L_t = (1/n_t) Σ_j w_{s(j)} ℓ_j on each batch of the run's own schedule, n_t the number of targets in the
    batch whatever their weights. `training.source_weights` is not read.

    Args:
        model: a transformers causal LM at its initial weights; trained in place.
        corpus: what the run was trained on.
        training: the run's settings.
        source_weights: w_b of each source, in the order of `corpus.sources`; 0 removes a source.

    Returns:
        The same model.

    Raises:
        ValueError: the number of weights is not the number of sources.
    """
    if len(source_weights) != len(corpus.sources):
        raise ValueError(f"{len(source_weights)} source weights for {len(corpus.sources)} sources")
    optimizer = make_optimizer(model, training)
    rate = LearningRate(training.learning_rate, training.schedule, training.warmup_steps, training.steps)
    parameter = next(model.parameters())
    # The last entry is what the source index −1 of padding reads.
    weights = torch.tensor([*source_weights, 0.0], dtype=parameter.dtype, device=parameter.device)
    for step, (tokens, sources) in enumerate(batches(corpus, training)):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        train_on_batch(model, optimizer, tokens, sources, weights, training.gradient_clipping)
    return model


def batches(corpus: PackedCorpus, training: TrainingConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and their sources of each step's global batch, (batch_size, length + 1) int64 each."""
    for rows in batch_schedule(len(corpus.tokens), training.batch_size, training.steps, training.seed):
        yield torch.from_numpy(corpus.tokens[rows]).long(), torch.from_numpy(corpus.token_sources[rows]).long()


def train_on_batch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tokens: Tensor,
    sources: Tensor,
    weights: Tensor,
    clipping: float,
) -> None:
    """One step in place, from tokens and sources (rows, length + 1) and weights (sources + 1,), the last one 0."""
    targets, target_sources = tokens[:, 1:].to(weights.device), sources[:, 1:].to(weights.device)
    logits = model(input_ids=tokens[:, :-1].to(weights.device), use_cache=False).logits
    losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    loss = (weights[target_sources] * losses).sum() / (target_sources >= 0).sum()
    optimizer.zero_grad()
    loss.backward()
    if clipping:
        nn.utils.clip_grad_norm_(model.parameters(), clipping)
    optimizer.step()


def make_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """torch's own optimizer for the settings, or `RootedAdam` where torch has none."""
    kept: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kept[any(re.search(pattern, name) for pattern in training.no_decay)].append(parameter)
    groups: list[dict[str, Any]] = [{"params": kept[False]}, {"params": kept[True], "weight_decay": 0.0}]
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=training.learning_rate,
            momentum=training.momentum,
            nesterov=training.nesterov,
            weight_decay=training.weight_decay,
        )
    settings: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": training.betas,
        "eps": training.eps,
        "weight_decay": training.weight_decay,
    }
    if training.eps_root == 0:
        return (torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam)(groups, **settings)
    return RootedAdam(groups, **settings, eps_root=training.eps_root, decoupled=training.optimizer == "adamw")


class RootedAdam(torch.optim.Optimizer):
    """torch.optim.Adam, or AdamW when decoupled, but dividing by √(v̂ + eps_root) + eps, as optax.adam does."""

    def __init__(self, parameters: Iterable[dict[str, Any]], **settings: Any) -> None:
        super().__init__(parameters, settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(step=0, first=torch.zeros_like(parameter), second=torch.zeros_like(parameter))
                state["step"] += 1
                first, second = state["first"], state["second"]
                gradient = parameter.grad
                if not group["decoupled"]:
                    gradient = gradient.add(parameter, alpha=group["weight_decay"])
                first.lerp_(gradient, 1 - beta1)
                second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                root = (second / (1 - beta2 ** state["step"])).add_(group["eps_root"]).sqrt_().add_(group["eps"])
                if group["decoupled"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.addcdiv_(first, root, value=-group["lr"] / (1 - beta1 ** state["step"]))


def completion_logprob(model: nn.Module, query: EncodedQuery) -> Tensor:
    """log p(completion | prompt) in nats, a scalar with its graph: one plain forward pass."""
    tokens = torch.tensor([query.tokens], device=next(model.parameters()).device)
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0, query.start - 1 :]
    return -cross_entropy(logits, tokens[0, query.start :], reduction="sum")


@torch.no_grad()
def completion_logprobs(model: nn.Module, queries: Sequence[EncodedQuery]) -> NDArray[np.float64]:
    """log p(completion | prompt) of each query in nats, (queries,): the true outputs of a retrained model."""
    return np.array([float(completion_logprob(model, query)) for query in queries])
