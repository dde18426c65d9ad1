"""TracIn and its relatives, by dattri: products of gradients at checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dist_attr.evaluation.baselines.contract import Trained
from dist_attr.evaluation.baselines.library import function_of, gradient_batch, loader, logprob, loss, projection


@dataclass(frozen=True)
class TracIn:
    """Σ_k η_k ∇log p(query) · (−∇ℓ(piece)) over checkpoints k, summed over a source's pieces (Pruthi et al. 2020).

    With one checkpoint, the trained model, it is the gradient dot product. A backward pass for each piece, query and
    checkpoint.

    Attributes:
        cosine: gradients, of every piece and query, have length 1. With one checkpoint: the gradient cosine.
    """

    cosine: bool = False

    def __call__(self, trained: Trained) -> NDArray[np.float64]:
        """See `Baseline`."""
        from dattri.algorithm import TracInAttributor
        from dattri.task import AttributionTask

        model, batch = trained.at(0), gradient_batch(trained)
        # dattri takes the gradients of what it calls test data again for every batch of training data. Products are the
        # same the other way round, and queries are fewer batches than pieces.
        task = AttributionTask(
            loss_func=function_of(trained, model, logprob, single=True),
            target_func=function_of(trained, model, loss, single=True),
            model=model,
            checkpoints=[dict(checkpoint) for checkpoint in trained.checkpoints],
        )
        attributor = TracInAttributor(
            task,
            weight_list=torch.tensor(trained.rates),
            normalized_grad=self.cosine,
            projector_kwargs=projection(trained, trained.parameter_count, "identity"),
            device=str(trained.device),
        )
        scores = attributor.attribute(loader(trained.queries, batch), loader(trained.examples, batch))
        return trained.by_source(-scores)
