from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_attr.corpus import batch_schedule, share_of_batch
from dist_attr.errors import CorpusError


def test_shape_is_steps_by_batch_size() -> None:
    schedule = batch_schedule(10, 4, 6, seed=0)
    assert schedule.shape == (6, 4)
    assert schedule.dtype == np.int64


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32))
def test_every_row_is_used_once_per_epoch(sequences: int, batch_size: int, steps: int, seed: int) -> None:
    order = batch_schedule(sequences, min(batch_size, sequences), steps, seed).ravel()
    whole = len(order) // sequences * sequences
    for epoch in order[:whole].reshape(-1, sequences):
        assert sorted(epoch) == list(range(sequences))
    assert len(set(order[whole:])) == len(order[whole:])


def test_epochs_have_different_orders() -> None:
    first, second = batch_schedule(64, 64, 2, seed=0)
    assert first.tolist() != second.tolist()


def test_the_seed_decides_the_order() -> None:
    assert batch_schedule(64, 8, 9, seed=3).tolist() == batch_schedule(64, 8, 9, seed=3).tolist()
    assert batch_schedule(64, 8, 9, seed=3).tolist() != batch_schedule(64, 8, 9, seed=4).tolist()


def test_a_shorter_run_is_the_beginning_of_a_longer_one() -> None:
    np.testing.assert_array_equal(batch_schedule(10, 4, 3, seed=0), batch_schedule(10, 4, 30, seed=0)[:3])


def test_a_batch_larger_than_the_corpus_is_refused() -> None:
    with pytest.raises(
        CorpusError, match=r"batch_size is 8, but the corpus packs into only 7 sequences; use a smaller"
    ):
        batch_schedule(7, 8, 1, seed=0)


@pytest.mark.parametrize("workers", [1, 2, 3, 6])
def test_shares_of_the_workers_make_up_the_batch(workers: int) -> None:
    batch = batch_schedule(10, 6, 1, seed=0)[0]
    shares = [share_of_batch(batch, rank, workers) for rank in range(workers)]
    assert {len(share) for share in shares} == {6 // workers}
    np.testing.assert_array_equal(np.concatenate(shares), batch)
