"""The outputs of many retrained models, trained in several processes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dist_attr.config import ModelConfig, TrainingConfig
from dist_attr.corpus import PackedCorpus
from dist_attr.evaluation.retraining import completion_logprobs, retrain
from dist_attr.models import build_model
from dist_attr.readout import EncodedQuery


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

    def start(self) -> nn.Module:
        """The model at the run's own initial weights."""
        return build_model(
            self.model,
            vocabulary=self.vocabulary,
            end_of_text=self.end_of_text,
            sequence_length=self.training.sequence_length,
            seed=self.training.seed,
        )

    def train(self, source_weights: Sequence[float]) -> nn.Module:
        """The model trained from that start with these source weights."""
        return retrain(self.start(), self.corpus, self.training, source_weights)

    def outputs(self, source_weights: Sequence[float]) -> NDArray[np.float64]:
        """log p(completion | prompt) of each query after that training, (queries,) in nats."""
        return completion_logprobs(self.train(source_weights), self.queries)


def retrained_outputs(
    retraining: Retraining,
    source_weights: NDArray[np.float64],
    *,
    workers: int = 1,
    on_done: Callable[[], object] = lambda: None,
) -> NDArray[np.float64]:
    """The true outputs: one training for each row of source weights.

    Args:
        retraining: what to train and to ask.
        source_weights: (subsets, sources).
        workers: processes to train in, one thread each. They are started afresh, so a script needs the usual
            `if __name__ == "__main__"`.
        on_done: called after each training.

    Returns:
        (subsets, queries) log p(completion | prompt) in nats.
    """
    rows = [row.tolist() for row in source_weights]
    outputs = []
    with _pool(retraining, workers) as pool:
        for output in pool.map(_outputs, rows):
            outputs.append(output)
            on_done()
    return np.array(outputs).reshape(len(rows), len(retraining.queries))


@contextmanager
def _pool(retraining: Retraining, workers: int) -> Iterator[ProcessPoolExecutor]:
    # Not forked: a fork of a process that runs threads, as torch's and Ray's do, can hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (retraining,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(retraining: Retraining) -> None:
    global _retraining
    torch.set_num_threads(1)
    _retraining = retraining


def _outputs(source_weights: Sequence[float]) -> NDArray[np.float64]:
    return _retraining.outputs(source_weights)


_retraining: Retraining  # of a worker process
