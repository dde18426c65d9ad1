"""Which rows each step trains on: a pure function of the seed, the same for any number of workers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dist_attr.errors import CorpusError


def batch_schedule(sequences: int, batch_size: int, steps: int, seed: int) -> NDArray[np.int64]:
    """Indices of the rows in the global batch of each step.

    One permutation of all rows per epoch, each drawn from (seed, epoch), one after the other: every row is used once
    per epoch, a shorter run is the beginning of a longer one, and a batch may span two epochs.

    Args:
        sequences: rows of the packed corpus.
        batch_size: rows in the global batch.
        steps: of the whole run.
        seed: of the order.

    Returns:
        (steps, batch_size) int64.

    Raises:
        CorpusError: a batch has more rows than the corpus.
    """
    if batch_size > sequences:
        raise CorpusError(
            f"training.batch_size is {batch_size}, but the corpus packs into only {sequences} sequences; "
            "use a smaller batch, shorter sequences (training.sequence_length) or more documents"
        )
    rows = steps * batch_size
    epochs = -(-rows // sequences)
    order = np.concatenate([np.random.default_rng((seed, epoch)).permutation(sequences) for epoch in range(epochs)])
    return order[:rows].reshape(steps, batch_size)


def share_of_batch(rows: NDArray[np.int64], rank: int, workers: int) -> NDArray[np.int64]:
    """The part of a global batch that data-parallel worker `rank` trains on.

    Args:
        rows: (batch_size,) row indices of one step.
        rank: of the worker, from 0.
        workers: a divisor of batch_size.

    Returns:
        (batch_size / workers,), contiguous in `rows`.
    """
    return np.split(rows, workers)[rank]
