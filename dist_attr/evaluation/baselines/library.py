"""The contract in dattri's words: its task, its loaders, its representations.

Its projectors' settings are a dictionary of the module that every attributor changes for those after it, and by default
even gradients that nobody asked to project are: so all settings are named each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dist_attr.evaluation.baselines.contract import Piece, Predictions, Trained

HELD = 2**27  # numbers of gradients in memory at once: half a GiB

Output = Callable[[Predictions], Tensor]


def negative_logprob(predictions: Predictions) -> Tensor:
    """The loss of each piece."""
    return -predictions.logprob


def logprob(predictions: Predictions) -> Tensor:
    """The output of each piece."""
    return predictions.logprob


def function_of(trained: Trained, model: nn.Module, output: Output, *, single: bool) -> Callable[..., Tensor]:
    """The mean of an output over pieces, as a function of parameters by name and pieces.

    Args:
        trained: whose task it is.
        model: at a checkpoint.
        output: of predictions, (pieces,).
        single: a piece comes without the dimension of pieces, as it does to dattri's TRAK and TracIn.
    """

    def function(parameters: dict[str, Tensor], data: Piece) -> Tensor:
        pieces = tuple(tensor[None] for tensor in data) if single else tuple(data)
        return output(trained.task.predictions(model, parameters, pieces)).mean()

    return function


def gradient_batch(trained: Trained) -> int:
    """How many pieces' gradients fit in memory."""
    return max(1, HELD // trained.parameter_count)


def loader(pieces: Piece, batch: int) -> DataLoader[Any]:
    """The pieces in their order."""
    return DataLoader(TensorDataset(*pieces), batch_size=batch)
