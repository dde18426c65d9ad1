"""The two kinds of models that baselines are compared on, and how their training data become pieces.

A token's loss counts for its own source, also in a row that several sources share. So a language model's pieces are
rows restricted to one source's tokens: the row, and how often each of its targets counts, which is 0 for those of other
sources and else how often the run was trained on the row. The losses of a source's pieces add up to Σ_{j ∈ b} ℓ_j.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dist_attr.corpus import Tokenizer, batch_schedule, decode
from dist_attr.errors import ConfigError
from dist_attr.evaluation.baselines.contract import Piece, Predictions, Trained
from dist_attr.evaluation.ground_truth import Retraining
from dist_attr.models import causal_forward
from dist_attr.readout import EncodedQuery


@dataclass(frozen=True)
class Classification:
    """A piece is (inputs, labels), labels (pieces,) int64. The model turns inputs into logits (pieces, classes)."""

    def predictions(self, model: nn.Module, parameters: Mapping[str, Tensor], piece: Piece) -> Predictions:
        """See `Task`."""
        inputs, labels = piece
        logits = torch.func.functional_call(model, dict(parameters), (inputs,))[:, None]
        # LiSSA of dattri hands labels over as floats.
        return Predictions(logits, labels.long()[:, None], self.weights(piece))

    def representation(self, model: nn.Module, piece: Piece) -> Tensor:
        """See `Task`; the last linear layer's input."""
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise ConfigError(f"{type(model).__name__} has no linear layer, whose input would represent an example")
        return read_by(layers[-1], model, piece[0]).flatten(1)

    def weights(self, piece: Piece) -> Tensor:
        """See `Task`; 1."""
        return torch.ones(len(piece[1]), 1, dtype=torch.get_default_dtype(), device=piece[1].device)

    def texts(self, piece: Piece, *, context: bool) -> list[str]:
        """See `Task`."""
        del piece, context
        raise ConfigError("a classifier's examples are no texts; search in words is for language models only")


@dataclass(frozen=True)
class CausalLanguage:
    """A piece is a row of tokens and how often each target counts: (tokens (pieces, L + 1), counts (pieces, L)).

    Attributes:
        tokenizer: for methods that read words.
    """

    tokenizer: Tokenizer | None = None

    def predictions(self, model: nn.Module, parameters: Mapping[str, Tensor], piece: Piece) -> Predictions:
        """See `Task`."""
        tokens, counts = piece[0].long(), piece[1]
        return Predictions(causal_forward(model)(parameters, tokens[:, :-1]), tokens[:, 1:], counts)

    def representation(self, model: Any, piece: Piece) -> Tensor:
        """See `Task`; the output layer's input."""
        tokens, counts = piece
        hidden = read_by(model.get_output_embeddings(), model, tokens[:, :-1])
        return (counts[..., None] * hidden).sum(1) / counts.sum(1, keepdim=True)

    def weights(self, piece: Piece) -> Tensor:
        """See `Task`."""
        return piece[1]

    def texts(self, piece: Piece, *, context: bool) -> list[str]:
        """See `Task`."""
        if self.tokenizer is None:
            raise ConfigError("tokens cannot be read as words without the tokenizer; hand it to language_model")
        found = []
        for tokens, counts in zip(piece[0].tolist(), piece[1], strict=True):
            own = (torch.nonzero(counts)[:, 0] + 1).tolist()
            found.append(decode(self.tokenizer, tokens[: own[-1] + 1] if context else [tokens[at] for at in own]))
        return found


def read_by(layer: nn.Module, model: nn.Module, inputs: Tensor) -> Tensor:
    """What a layer reads in a forward pass of the model."""
    read: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        handle.remove()
    return read[0]


def classifier(
    model: nn.Module,
    checkpoints: Sequence[Mapping[str, Tensor]],
    examples: tuple[Tensor, Tensor],
    queries: tuple[Tensor, Tensor],
    *,
    sources: Tensor | None = None,
    rates: Sequence[float] | None = None,
) -> Trained:
    """What baselines may look at of a classifier.

    Args:
        model: inputs to logits (pieces, classes).
        checkpoints: its state dicts.
        examples: inputs and labels it was trained on.
        queries: inputs and labels; the output is log p(label | input).
        sources: of the examples; by default each is a source of its own.
        rates: learning rates at the checkpoints; 1 by default.
    """
    of = torch.arange(len(examples[0])) if sources is None else sources
    return Trained(
        model=model,
        checkpoints=checkpoints,
        rates=[1.0] * len(checkpoints) if rates is None else rates,
        examples=examples,
        sources=of,
        source_count=int(of.max()) + 1,
        queries=queries,
        task=Classification(),
    )


def language_model(
    retraining: Retraining,
    checkpoints: Sequence[Mapping[str, Tensor]],
    *,
    rates: Sequence[float] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Trained:
    """What baselines may look at of a run.

    Args:
        retraining: the run, whose schedule says how often each row was used, and its queries.
        checkpoints: state dicts of `retraining.start()`, trained.
        rates: learning rates at the checkpoints; 1 by default.
        tokenizer: of the run, for methods that read words.
    """
    model = retraining.start()
    examples, sources = pieces_of(retraining)
    device = next(model.parameters()).device
    return Trained(
        model=model,
        checkpoints=checkpoints,
        rates=[1.0] * len(checkpoints) if rates is None else rates,
        examples=tuple(tensor.to(device) for tensor in examples),
        sources=sources,
        source_count=len(retraining.corpus.sources),
        queries=tuple(tensor.to(device) for tensor in padded(retraining.queries)),
        task=CausalLanguage(tokenizer),
    )


def pieces_of(retraining: Retraining) -> tuple[Piece, Tensor]:
    """Rows restricted to one source's tokens, and the source of each; rows that the run did not use are left out."""
    corpus, training = retraining.corpus, retraining.training
    schedule = batch_schedule(len(corpus.tokens), training.batch_size, training.steps, training.seed)
    uses = np.bincount(schedule.ravel(), minlength=len(corpus.tokens))
    of = np.arange(len(corpus.sources))[:, None]
    held = np.stack([(row[1:] == of).any(1) for row in corpus.token_sources]) & (uses > 0)[:, None]
    rows, sources = np.nonzero(held)
    counts = uses[rows, None] * (corpus.token_sources[rows, 1:] == sources[:, None])
    tokens = torch.from_numpy(corpus.tokens[rows]).long()
    return (tokens, torch.from_numpy(counts).float()), torch.from_numpy(sources)


def padded(queries: Sequence[EncodedQuery]) -> Piece:
    """Queries as pieces, padded on the right with tokens that do not count."""
    length = max(len(query.tokens) for query in queries)
    tokens, counts = torch.zeros(len(queries), length, dtype=torch.long), torch.zeros(len(queries), length - 1)
    for number, query in enumerate(queries):
        tokens[number, : len(query.tokens)] = torch.tensor(query.tokens)
        counts[number, query.start - 1 : len(query.tokens) - 1] = 1
    return tokens, counts
