"""TRAK, by dattri: the model as a logistic regression on randomly projected gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dist_attr.errors import ConfigError
from dist_attr.evaluation.baselines.contract import Predictions, Trained
from dist_attr.evaluation.baselines.library import (
    checked,
    function_of,
    gradient_batch,
    loader,
    logprob,
    projection,
)


@dataclass(frozen=True)
class Trak:
    """φ(query) (ΦᵀΦ)⁻¹ φ(piece) (1 − p), summed over a source's pieces (Park et al. 2023).

    φ is the projected gradient: of a piece's margin Σ_j log(p_j / (1 − p_j)), and of a query's log p, which for a
    classifier is in the direction of its margin. p is the mean probability of a piece's targets. Several checkpoints
    are TRAK-M: the mean of the first part times that of the second. A backward pass for each piece, query and
    checkpoint.

    Attributes:
        dimension: of the projection, at most the number of pieces.
    """

    dimension: int = 512

    def __call__(self, trained: Trained) -> NDArray[np.float64]:
        """See `Baseline`."""
        from dattri.algorithm import TRAKAttributor
        from dattri.task import AttributionTask

        pieces = len(trained.sources)
        if self.dimension > pieces:
            raise ConfigError(
                f"TRAK projects to {self.dimension} dimensions, where the kernel of {pieces} pieces has no inverse; "
                f"take a dimension of at most {pieces}"
            )
        model, batch = trained.at(0), gradient_batch(trained)
        task = AttributionTask(
            loss_func=function_of(trained, model, _margin, single=True),
            target_func=function_of(trained, model, logprob, single=True),
            model=model,
            checkpoints=[dict(checkpoint) for checkpoint in trained.checkpoints],
        )
        attributor = TRAKAttributor(
            task,
            correct_probability_func=function_of(trained, model, _probability, single=True),
            projector_kwargs=projection(trained, self.dimension, "normal"),
            device=str(trained.device),
        )
        attributor.cache(loader(trained.examples, batch))
        scores = attributor.attribute(loader(trained.queries, batch))
        return trained.by_source(checked(scores.T, "take a smaller dimension, at which the kernel has an inverse"))


def _margin(predictions: Predictions) -> Tensor:
    return predictions.margin


def _probability(predictions: Predictions) -> Tensor:
    return predictions.probability
