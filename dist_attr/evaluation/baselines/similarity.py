"""How alike a query and the training data look to the model, gradients aside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from dist_attr.evaluation.baselines.contract import Piece, Trained

BATCH = 256  # pieces of a forward pass


@dataclass(frozen=True)
class Similarity:
    """The product of what the last layer reads of a query and of each piece, summed over a source's pieces.

    One forward pass for each piece and query. Checkpoints are averaged.

    Attributes:
        metric: "dot", or "cosine" for vectors of length 1.
    """

    metric: Literal["cosine", "dot"] = "cosine"

    def __call__(self, trained: Trained) -> NDArray[np.float64]:
        """See `Baseline`."""
        scores = [
            self._vectors(m, trained, trained.queries) @ self._vectors(m, trained, trained.examples).T
            for m in trained.models()
        ]
        return trained.by_source(torch.stack(scores).mean(0))

    def _vectors(self, model: nn.Module, trained: Trained, pieces: Piece) -> Tensor:
        batches = zip(*(tensor.split(BATCH) for tensor in pieces), strict=True)
        vectors = torch.cat([trained.task.representation(model, batch) for batch in batches])
        return normalize(vectors) if self.metric == "cosine" else vectors
