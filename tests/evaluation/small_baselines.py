"""Tiny models for the tests of the baselines, and their gradients piece by piece in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dist_attr.evaluation.baselines import Classification, Piece, Predictions, Trained, classifier

INPUTS, CLASSES = 4, 3
Output = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Counted(Classification):
    """Inputs, labels and how often each was trained on, (pieces, 1), as a language model's tokens are counted."""

    def predictions(self, model: nn.Module, parameters: Mapping[str, Tensor], piece: Piece) -> Predictions:
        once = super().predictions(model, parameters, piece[:2])
        return Predictions(once.logits, once.targets, piece[2])

    def weights(self, piece: Piece) -> Tensor:
        return piece[2] if len(piece) == 3 else super().weights(piece)


def counted(trained: Trained) -> Trained:
    """The same, but trained on every other piece three times."""
    counts = 1 + 2 * (torch.arange(len(trained.sources)) % 2)[:, None].to(trained.examples[0].dtype)
    once = torch.ones(len(trained.queries[0]), 1, dtype=counts.dtype)
    return replace(trained, examples=(*trained.examples, counts), queries=(*trained.queries, once), task=Counted())


def mlp(seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """43 parameters."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, CLASSES)).to(dtype)


def small_classifier(checkpoints: int = 1, pieces: int = 60, dtype: torch.dtype = torch.float64) -> Trained:
    """Random data in twelve sources, one of which has no piece; weights that no training has seen."""
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(pieces + 3, INPUTS, generator=draw, dtype=dtype)
    labels = torch.randint(0, CLASSES, (pieces + 3,), generator=draw)
    return classifier(
        mlp(9, dtype),
        [mlp(seed, dtype).state_dict() for seed in range(checkpoints)],
        (inputs[:pieces], labels[:pieces]),
        (inputs[pieces:], labels[pieces:]),
        sources=torch.arange(pieces) % 11 + (torch.arange(pieces) % 11 >= 5),
    )


def logprob(model: nn.Module, inputs: Tensor, label: Tensor) -> Tensor:
    return -cross_entropy(model(inputs[None]), label[None])


def margin(model: nn.Module, inputs: Tensor, label: Tensor) -> Tensor:
    p: Tensor = model(inputs[None]).softmax(1)[0, label]
    odds: Tensor = p / (1 - p)
    return odds.log()


def gradients(model: nn.Module, pieces: Sequence[Tensor], output: Output) -> Tensor:
    """∇ of an output of each piece, (pieces, P)."""
    rows = []
    for piece in zip(*pieces, strict=True):
        parts = torch.autograd.grad(output(model, *piece), list(model.parameters()))
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def summed(trained: Trained, scores: Tensor) -> NDArray[np.float64]:
    """Scores (queries, pieces) of each source's pieces together."""
    columns = [scores[:, trained.sources == source].sum(1) for source in range(trained.source_count)]
    return torch.stack(columns, 1).double().numpy()


def mean_rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's, of each query's scores, averaged."""
    return float(np.mean([spearmanr(*rows).statistic for rows in zip(one, other, strict=True)]))
