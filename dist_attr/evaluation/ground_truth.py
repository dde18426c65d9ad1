"""The outputs of many retrained models, each trained by a Ray task of its own.

Retraining several models in one stacked pass, as the trajectory simulation does, saves nothing on a CPU: a step of 8 or
24 stacked models takes 0.97 to 1.07 plain steps a model (`python -m scripts.cost`). A task for each is simpler, loses
less when it dies, and is plain torch from end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dist_attr.config import ModelConfig, TrainingConfig
from dist_attr.corpus import PackedCorpus
from dist_attr.evaluation.fidelity import Floats
from dist_attr.evaluation.kept import Kept, digest
from dist_attr.evaluation.retraining import completion_logprobs, retrain
from dist_attr.evaluation.tasks import Done, Workers, gathered
from dist_attr.models import build_model, model_fingerprint
from dist_attr.readout import EncodedQuery

# They say where and in what pieces DeepSpeed computes the same step; a retraining is plain torch in float32.
NOT_READ = {"seed", "source_weights", "accumulation_steps", "precision", "zero_stage", "deepspeed"}


@dataclass(frozen=True, eq=False)
class Retraining:
    """What it takes to train a run's model again and to ask it.

    Attributes:
        model: the run's.
        training: the run's; its source_weights are not read.
        corpus: what the run was trained on.
        vocabulary: tokens of the run's tokenizer.
        end_of_text: its end-of-text token.
        queries: whose completions' log-probabilities are the outputs.
    """

    model: ModelConfig
    training: TrainingConfig
    corpus: PackedCorpus
    vocabulary: int
    end_of_text: int
    queries: Sequence[EncodedQuery]

    def at(self, seed: int) -> Retraining:
        """The same with other initial weights and another batch order."""
        return replace(self, training=self.training.model_copy(update={"seed": seed}))

    def start(self) -> nn.Module:
        """The model at its initial weights, on the GPU if there is one."""
        model = build_model(
            self.model,
            vocabulary=self.vocabulary,
            end_of_text=self.end_of_text,
            sequence_length=self.training.sequence_length,
            seed=self.training.seed,
        )
        return model.to("cuda" if torch.cuda.is_available() else "cpu")

    def train(self, source_weights: Sequence[float]) -> nn.Module:
        """The model trained from that start with these source weights."""
        return retrain(self.start(), self.corpus, self.training, source_weights)

    def outputs(self, source_weights: Sequence[float]) -> NDArray[np.float64]:
        """log p(completion | prompt) of each query after that training, (queries,) in nats."""
        return completion_logprobs(self.train(source_weights), self.queries)

    @cached_property
    def fingerprint(self) -> str:
        """Of all that decides the outputs but the seed and the source weights, the initial weights included."""
        return digest(
            self.model.model_dump(mode="json", exclude={"path"}),  # the weights at a path are those of the start
            self.training.model_dump(mode="json", exclude=NOT_READ),
            model_fingerprint(self.at(0).start()),
            self.corpus.tokens,
            self.corpus.token_sources,
            [[list(query.tokens), query.start] for query in self.queries],
            torch.__version__,
        )


def retrained_outputs(
    retraining: Retraining,
    source_weights: NDArray[np.float64],
    *,
    seeds: Sequence[int] | None = None,
    workers: Workers | None = None,
    kept: Kept | None = None,
    on_done: Done = lambda *_: None,
) -> Floats:
    """The true outputs: one training for each seed and each row of source weights, side by side as Ray tasks.

    Args:
        retraining: what to train and to ask.
        source_weights: (subsets, sources).
        seeds: of initial weights and batch order; by default the run's own alone.
        workers: where the tasks run.
        kept: where finished outputs are kept, and found when this is called again.
        on_done: called with the number of each training, seeds one after the other, and its outputs.

    Returns:
        (seeds, subsets, queries) log p(completion | prompt) in nats.
    """
    seeds = [retraining.training.seed] if seeds is None else seeds
    calls = [(seed, row) for seed in seeds for row in source_weights.tolist()]
    names = [digest(retraining.fingerprint, seed, row) for seed, row in calls] if kept is not None else []
    outputs = gathered(_outputs, retraining, calls, names=names, kept=kept, workers=workers, on_done=on_done)
    return np.array(outputs).reshape(len(seeds), len(source_weights), len(retraining.queries))


def _outputs(retraining: Retraining, seed: int, source_weights: Sequence[float]) -> Floats:
    torch.set_num_threads(1)
    return retraining.at(seed).outputs(source_weights)
