"""EK-FAC influence, by kronfluence: the Gauss–Newton matrix, layer by layer in an eigenbasis of Kronecker factors.

dattri's EK-FAC is not used: it takes no sequences, uses observed labels, and multiplies by its eigenvectors' transpose.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from dist_attr.errors import ConfigError
from dist_attr.evaluation.baselines.contract import Piece, Predictions, Trained
from dist_attr.evaluation.baselines.library import checked, gradient_batch, target_weight
from dist_attr.models import linear_layers

LARGEST_BATCH = 64  # pieces; more are not faster


@dataclass(frozen=True)
class Ekfac:
    """∇log p(query) (G + λI)⁻¹ (−∇ℓ(piece)), summed over a source's pieces (George et al. 2018, Grosse et al. 2023).

    G is the Gauss–Newton matrix of the mean loss of a target, from labels that the model draws. It covers the weights
    and biases of trained linear layers (GPT-2's Conv1D, turned into such, and LoRA's included). Embeddings, norms and a
    language model's output layer, whose factor would be as large as the vocabulary, are left out, of the product as
    well. Several checkpoints are averaged. Three backward passes for each piece and one for each query.

    Attributes:
        damping: λ.
        seed: of the drawn labels.
    """

    damping: float = 1e-3
    seed: int = 0

    def __call__(self, trained: Trained) -> NDArray[np.float64]:
        """See `Baseline`."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            scores = torch.stack([self._scores(trained, linear_layers(model)) for model in trained.models()])
        return trained.by_source(checked(-scores.mean(0), "take more damping"))

    def _scores(self, trained: Trained, model: nn.Module) -> Tensor:
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import FactorArguments, ScoreArguments

        task = _task(trained, covered(model))
        batch = min(LARGEST_BATCH, gradient_batch(trained))
        examples, queries = TensorDataset(*trained.examples), TensorDataset(*trained.queries)
        with tempfile.TemporaryDirectory() as folder:
            analyzer = Analyzer(
                "baseline",
                prepare_model(model, task),
                task,
                cpu=trained.device.type == "cpu",
                log_level=logging.ERROR,
                disable_tqdm=True,
                output_dir=folder,
            )
            analyzer.fit_all_factors(
                "factors", examples, per_device_batch_size=batch, factor_args=FactorArguments(strategy="ekfac")
            )
            analyzer.compute_pairwise_scores(
                "scores",
                "factors",
                queries,
                examples,
                per_device_query_batch_size=batch,
                per_device_train_batch_size=batch,
                score_args=ScoreArguments(damping_factor=self.damping),
            )
            scores: Tensor = analyzer.load_pairwise_scores("scores")["all_modules"]
        return scores


def covered(model: Any) -> list[str]:
    """Names of the trained linear layers, but for a language model's output layer.

    Raises:
        ConfigError: there is none, or it is the model itself.
    """
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    names = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer.weight.requires_grad and layer is not output
    ]
    if not names:
        raise ConfigError("EK-FAC is for linear layers, and none of the model's is trained; use another baseline")
    if "" in names:
        raise ConfigError("kronfluence cannot take a model that is one layer itself; put it into nn.Sequential")
    return names


def _task(trained: Trained, names: list[str]) -> Any:
    from kronfluence.task import Task

    weight = target_weight(trained)

    def predictions(batch: list[Tensor], model: nn.Module) -> Predictions:
        pieces: Piece = tuple(batch)
        return trained.task.predictions(model, dict(model.named_parameters()), pieces)

    class Outputs(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: list[Tensor], model: nn.Module, sample: bool = False) -> Tensor:
            made = predictions(batch, model)
            if not sample:
                return -made.logprob.sum() / weight
            with torch.no_grad():
                drawn = torch.distributions.Categorical(logits=made.logits).sample()
            # Gradients of independent labels are squared and added up: the weight's root gives each its weight in G.
            return -Predictions(made.logits, drawn, (made.weights / weight).sqrt()).logprob.sum()

        def compute_measurement(self, batch: list[Tensor], model: nn.Module) -> Tensor:
            return predictions(batch, model).logprob.sum()

        def get_influence_tracked_modules(self) -> list[str]:
            return names

    return Outputs()
