"""What a fidelity figure is compared with: attribution from the trained model alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from dist_attr.config import TrainingConfig
from dist_attr.corpus import PackedCorpus, batch_schedule
from dist_attr.evaluation.retraining import completion_logprob
from dist_attr.readout import EncodedQuery


def gradient_dot(
    model: nn.Module,
    corpus: PackedCorpus,
    training: TrainingConfig,
    queries: Sequence[EncodedQuery],
    *,
    unit_sources: bool = False,
) -> NDArray[np.float64]:
    """Gradient dot product at the trained model: ∇ log p(completion | prompt) · (−∇ Σ_{j ∈ b} ℓ_j).

    One step of gradient descent from the trained model on a source's tokens would move a query's log-probability by
    this much per unit of learning rate; positive means proponent. The sum runs over every target token of the source
    as often as the run was trained on it. TracIn (Pruthi et al. 2020) with the last checkpoint alone.

    Args:
        model: the trained model.
        corpus: what it was trained on.
        training: the run's settings, which say how often each row was used.
        queries: to score.
        unit_sources: the sources' gradients have length 1, and a query's scores rank them as the cosine does.

    Returns:
        (queries, sources); only ratios between scores mean anything.
    """
    own = torch.stack([_source_gradient(model, corpus, training, source) for source in range(len(corpus.sources))])
    if unit_sources:
        own = normalize(own)
    return np.stack([(own @ _flat_gradient(completion_logprob(model, query), model)).numpy() for query in queries])


def _source_gradient(model: nn.Module, corpus: PackedCorpus, training: TrainingConfig, source: int) -> Tensor:
    """−∇ Σ_{j ∈ b} ℓ_j, (P,) on the CPU."""
    schedule = batch_schedule(len(corpus.tokens), training.batch_size, training.steps, training.seed)
    uses = np.bincount(schedule.ravel(), minlength=len(corpus.tokens))
    rows = np.flatnonzero((uses > 0) & (corpus.token_sources[:, 1:] == source).any(axis=1))
    total = torch.zeros(sum(parameter.numel() for parameter in _trained(model)), dtype=torch.float64)
    device = next(model.parameters()).device
    for start in range(0, len(rows), training.batch_size):
        part = rows[start : start + training.batch_size]
        tokens = torch.from_numpy(corpus.tokens[part]).long().to(device)
        counted = torch.from_numpy(uses[part, None] * (corpus.token_sources[part, 1:] == source)).to(device)
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        losses = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        total -= _flat_gradient((losses * counted.flatten()).sum(), model)
    return total


def _flat_gradient(output: Tensor, model: nn.Module) -> Tensor:
    gradient = torch.autograd.grad(output, _trained(model))
    return torch.cat([part.flatten() for part in gradient]).cpu().double()


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
