"""Influence functions, by dattri: ∇log p(query) (H + λI)⁻¹ (−∇ℓ(piece)), summed over a source's pieces.

H is the Hessian, not the Gauss–Newton matrix, of the mean loss of a target; it may have negative eigenvalues, which
damping has to outweigh. Several checkpoints are averaged. Apart from the solver's own work, which its docstring says:
a backward pass for each piece, query and checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_attr.evaluation.baselines.contract import Piece, Predictions, Trained
from dist_attr.evaluation.baselines.library import checked, function_of, loader, logprob, products, target_weight


@dataclass(frozen=True)
class InfluenceCG:
    """The inverse by conjugate gradients: iterations + 1 products with the Hessian of `fitted` pieces for each query.

    Attributes:
        damping: λ.
        iterations: of conjugate gradients; more than there are distinct eigenvalues divide by zero.
        fitted: pieces whose Hessian it is, drawn by `seed`; all where there are no more.
        seed: of the draw.
    """

    damping: float = 0.01
    iterations: int = 10
    fitted: int = 1000
    seed: int = 0

    @torch.no_grad()  # dattri differentiates by transforms; autograd would keep the graphs of all iterations besides
    def __call__(self, trained: Trained) -> NDArray[np.float64]:
        """See `Baseline`."""
        from dattri.algorithm import IFAttributorCG

        def scores(task: Any) -> Tensor:
            attributor = IFAttributorCG(
                task, device=str(trained.device), max_iter=self.iterations, regularization=self.damping
            )
            # One batch, since dattri adds up the inverses of several.
            attributor.cache(loader(_drawn(trained, self.fitted, self.seed), self.fitted))
            return products(attributor, trained, query_batch=1)

        why = "take fewer iterations, or more damping: conjugate gradients have converged, or met negative curvature"
        return _averaged(trained, scores, why)


@dataclass(frozen=True)
class InfluenceLiSSA:
    """The inverse by a truncated series: `repeats` × `depth` products with the Hessian of a batch for each query.

    Attributes:
        damping: λ.
        scaling: above the largest eigenvalue of H of any batch, else the series diverges. With λ it decides how far the
            series has come: what curves less than about scaling / depth has not converged.
        depth: terms of the series.
        batch: pieces drawn for each term.
        repeats: series that are averaged.
        seed: of the draws.
    """

    damping: float = 0.01
    scaling: float = 50.0
    depth: int = 200
    batch: int = 64
    repeats: int = 1
    seed: int = 0

    @torch.no_grad()  # dattri differentiates by transforms; autograd would keep the graphs of all iterations besides
    def __call__(self, trained: Trained) -> NDArray[np.float64]:
        """See `Baseline`."""
        from dattri.algorithm import IFAttributorLiSSA

        def scores(task: Any) -> Tensor:
            attributor = IFAttributorLiSSA(
                task,
                device=str(trained.device),
                batch_size=self.batch,
                num_repeat=self.repeats,
                recursion_depth=self.depth,
                damping=self.damping / self.scaling,  # its series is that of H / scaling
                scaling=self.scaling,
            )
            attributor.cache(loader(trained.examples, len(trained.sources)))
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                return products(attributor, trained, query_batch=8)

        return _averaged(trained, scores, f"the series diverges: take a larger scaling than {self.scaling:g}")


def _averaged(trained: Trained, scores: Callable[[Any], Tensor], why: str) -> NDArray[np.float64]:
    from dattri.task import AttributionTask

    weight, found = target_weight(trained), []

    def loss(predictions: Predictions) -> Tensor:
        return -predictions.logprob / weight

    for model in trained.models():
        task = AttributionTask(
            loss_func=function_of(trained, model, loss),
            target_func=function_of(trained, model, logprob),
            model=model,
            checkpoints=dict(model.state_dict()),
        )
        found.append(checked(-scores(task), why))
    return trained.by_source(torch.stack(found).mean(0))


def _drawn(trained: Trained, count: int, seed: int) -> Piece:
    pieces = len(trained.sources)
    if count >= pieces:
        return trained.examples
    chosen = torch.randperm(pieces, generator=torch.Generator().manual_seed(seed))[:count]
    return tuple(tensor[chosen.to(tensor.device)] for tensor in trained.examples)
