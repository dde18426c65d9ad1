"""What a baseline may look at, and what it says: the same for every method and for classifiers and language models."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dist_attr.errors import ConfigError

Piece = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model predicts of some pieces. A classifier has one target for each, a language model one for each token.

    Attributes:
        logits: (pieces, targets, classes).
        targets: (pieces, targets) int64.
        weights: (pieces, targets) how often each target counts; 0 where it is not the piece's.
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor

    @property
    def logprob(self) -> Tensor:
        """Σ_j w_j log p_j of each piece in nats, (pieces,): a query's output, and minus the loss of an example."""
        return (self.weights * self._of_targets(self.logits.log_softmax(-1))).sum(-1)

    @property
    def margin(self) -> Tensor:
        """Σ_j w_j log(p_j / (1 − p_j)) of each piece, (pieces,), without the cancellation where p_j is nearly 1."""
        others = self.logits.scatter(-1, self.targets[..., None], -torch.inf).logsumexp(-1)
        return (self.weights * (self._of_targets(self.logits) - others)).sum(-1)

    @property
    def probability(self) -> Tensor:
        """The mean of p_j over a piece's targets as often as they count, (pieces,)."""
        own = self._of_targets(self.logits.softmax(-1))
        return (self.weights * own).sum(-1) / self.weights.sum(-1)

    def _of_targets(self, values: Tensor) -> Tensor:
        return values.gather(-1, self.targets[..., None])[..., 0]


class Task(Protocol):
    """How the model reads a piece, a tuple of tensors whose first dimension is the number of pieces."""

    def predictions(self, model: nn.Module, parameters: Mapping[str, Tensor], piece: Piece) -> Predictions:
        """What the model predicts at some parameters; those that are not named are the model's own."""

    def representation(self, model: nn.Module, piece: Piece) -> Tensor:
        """What the last layer reads of each piece, (pieces, width); the mean over the targets that count."""

    def weights(self, piece: Piece) -> Tensor:
        """How often each target counts, (pieces, targets)."""

    def texts(self, piece: Piece, *, context: bool) -> list[str]:
        """What counts of each piece as text, with or without what stands before it.

        Raises:
            ConfigError: pieces are no text.
        """


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model, what it was trained on, and what it is asked.

    Attributes:
        model: the structure; what is attributed is a function of its parameters that require a gradient.
        checkpoints: state dicts of the model. Several are an ensemble of runs, or for TracIn points along one run.
        rates: TracIn's weight of each checkpoint: the learning rate there.
        examples: training data in pieces, each tensor's first dimension. Every piece belongs to one source.
        sources: (pieces,) int64, the source of each piece.
        source_count: number of sources, those without a piece included.
        queries: in the layout of examples, the first dimension being queries.
        task: how the model reads them.

    Raises:
        ConfigError: they do not fit together.
    """

    model: nn.Module
    checkpoints: Sequence[Mapping[str, Tensor]]
    rates: Sequence[float]
    examples: Piece
    sources: Tensor
    source_count: int
    queries: Piece
    task: Task

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise ConfigError("no checkpoint is given; baselines need the trained model's state dict at least")
        if len(self.rates) != len(self.checkpoints):
            raise ConfigError(
                f"there are {len(self.checkpoints)} checkpoints and {len(self.rates)} rates; give one for each"
            )
        for name, pieces in {"examples": self.examples, "queries": self.queries}.items():
            if len({len(tensor) for tensor in pieces}) != 1 or not len(pieces[0]):
                raise ConfigError(
                    f"the tensors of {name} have {[len(t) for t in pieces]} pieces; they need as many each"
                )
        if len(self.sources) != len(self.examples[0]):
            raise ConfigError(f"{len(self.examples[0])} pieces have {len(self.sources)} sources; each needs one")
        if not 0 <= int(self.sources.min()) <= int(self.sources.max()) < self.source_count:
            raise ConfigError(f"a piece's source must be one of 0 to {self.source_count - 1}")
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise ConfigError("no parameter of the model requires a gradient; call requires_grad_ on what was trained")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def parameter_count(self) -> int:
        """P, the number of trained parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def at(self, checkpoint: int) -> nn.Module:
        """A copy of the model with the weights of a checkpoint, in evaluation mode."""
        model = copy.deepcopy(self.model).eval()
        model.load_state_dict(self.checkpoints[checkpoint])
        return model

    def models(self) -> Iterator[nn.Module]:
        """`at` each checkpoint."""
        return (self.at(number) for number in range(len(self.checkpoints)))

    def by_source(self, scores: Tensor) -> NDArray[np.float64]:
        """Sums over the pieces of each source.

        Args:
            scores: (queries, pieces).

        Returns:
            (queries, sources).
        """
        total = torch.zeros(len(scores), self.source_count, dtype=torch.float64)
        return total.index_add_(1, self.sources.cpu(), scores.detach().cpu().double()).numpy()


class Baseline(Protocol):
    """A method with its settings, which its repr tells."""

    def __call__(self, trained: Trained) -> NDArray[np.float64]:
        """Scores (queries, sources), positive where the source made the answer more likely.

        Only ratios of a query's scores mean anything.

        Raises:
            ConfigError: the library cannot do that with such a model or setting.
        """
