"""The contract in dattri's words: functions of parameters and pieces, loaders, and products of its representations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dist_attr.errors import ConfigError
from dist_attr.evaluation.baselines.contract import Piece, Predictions, Trained

HELD = 2**25  # numbers of gradients and logits in memory at once, 128 MiB; libraries hold several times as much

Output = Callable[[Predictions], Tensor]


def logprob(predictions: Predictions) -> Tensor:
    """A query's output, (pieces,)."""
    return predictions.logprob


def loss(predictions: Predictions) -> Tensor:
    """An example's loss, (pieces,)."""
    return -predictions.logprob


def function_of(
    trained: Trained, model: nn.Module, output: Output, *, single: bool = False
) -> Callable[[dict[str, Tensor], Piece], Tensor]:
    """The mean of an output over pieces, as a function of parameters by name and pieces.

    Args:
        trained: whose task it is.
        model: at a checkpoint.
        output: of predictions, (pieces,).
        single: one piece comes, without the dimension of pieces, as it does to dattri's TRAK and TracIn.
    """

    def function(parameters: dict[str, Tensor], data: Piece) -> Tensor:
        pieces = tuple(tensor[None] for tensor in data) if single else tuple(data)
        return output(trained.task.predictions(model, parameters, pieces)).mean()

    return function


def gradient_batch(trained: Trained) -> int:
    """How many pieces' gradients, and the logits they are taken through, fit in memory."""
    first, parameters = tuple(tensor[:1] for tensor in trained.examples), dict(trained.model.named_parameters())
    with torch.no_grad():
        logits = trained.task.predictions(trained.model, parameters, first).logits
    # Of an adapter's few parameters a gradient is nothing beside the logits of a vocabulary.
    return max(1, HELD // (trained.parameter_count + logits.numel()))


def loader(pieces: Piece, batch: int) -> DataLoader[Any]:
    """The pieces in their order."""
    return DataLoader(TensorDataset(*pieces), batch_size=batch)


def checked(scores: Tensor, why: str) -> Tensor:
    """The scores, if they are numbers.

    Raises:
        ConfigError: they are not; `why` says what to change.
    """
    if not scores.isfinite().all():
        raise ConfigError(f"some scores are not finite; {why}")
    return scores


def target_weight(trained: Trained) -> float:
    """The mean over pieces of how often their targets count.

    A piece's loss divided by it is, in the mean over pieces, the mean loss of a target. Curvature and damping are
    those of that mean loss in every method, whether pieces are images or texts.
    """
    return float(trained.task.weights(trained.examples).sum()) / len(trained.sources)


def projection(trained: Trained, dimension: int, kind: str) -> dict[str, Any]:
    """All settings of dattri's projector.

    They are a dictionary of its module, which every attributor changes for those after it, and which projects even
    where nobody asked for it: so none is left to its default.
    """
    device = str(trained.device)
    return {"proj_dim": dimension, "proj_max_batch_size": 32, "proj_seed": 0, "proj_type": kind, "device": device}


def products(attributor: Any, trained: Trained, query_batch: int) -> Tensor:
    """What one of dattri's inner-product attributors makes of queries, times what it makes of pieces.

    Its own `attribute` transforms the queries anew for every batch of training data.

    Returns:
        (queries, pieces).
    """
    size = gradient_batch(trained)
    transformed = torch.cat(
        [
            attributor.transform_test_rep(0, attributor.generate_test_rep(0, _batched(queries)))
            for queries in loader(trained.queries, query_batch)
        ]
    )
    read = (attributor.generate_train_rep(0, _batched(pieces)) for pieces in loader(trained.examples, size))
    return torch.cat([transformed @ gradients.T for gradients in read], dim=1)


def _batched(pieces: Piece) -> Piece:
    """dattri's inner-product attributors see one piece at a time along the second dimension."""
    return tuple(tensor[None] for tensor in pieces)
