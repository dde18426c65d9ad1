"""Reading after shared prefixes: any order, any batch, any amount of memory give what whole sequences give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_attr.probing import reader
from dist_attr.probing.prefixes import PrefixCache
from dist_attr.probing.prompts import Reading
from dist_attr.probing.reader import Reader
from tests.probing.models import byte_model, plain_logprobs

MODELS = {name: byte_model(name) for name in ("gpt2", "llama")}
TOKENS = st.integers(0, 9)
STARTS = st.sampled_from([(), (1,), (1, 2, 3, 4)])
DOCUMENTS = st.lists(TOKENS, max_size=12).map(tuple)
TAILS = st.lists(TOKENS, min_size=2, max_size=20).map(tuple)


@st.composite
def readings(draw: Any) -> list[Reading]:
    """Few prefixes, each with several tails."""
    prefixes = draw(st.lists(st.tuples(STARTS, DOCUMENTS), min_size=1, max_size=4))
    found = []
    for _ in range(draw(st.integers(1, 12))):
        start, document = draw(st.sampled_from(prefixes))
        tail = draw(TAILS)
        found.append(Reading((*start, *document), len(start), tail, draw(st.integers(1, len(tail) - 1))))
    return found


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(MODELS)),
    asked=st.lists(readings(), min_size=1, max_size=2),
    batch=st.sampled_from([1, 30, 512]),
    row=st.sampled_from([1, 25, 128]),
    held=st.sampled_from([0, 4096, 2**28]),
)
def test_batches_order_and_memory_change_no_logprob(
    name: str, asked: list[list[Reading]], batch: int, row: int, held: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(reader.BATCH_TOKENS, "cpu", batch)
        patch.setattr(reader, "ROW_TOKENS", row)
        remembering = Reader(MODELS[name], held)
        for some in asked:
            found = remembering.logprobs(some)
            for reading, logprobs in zip(some, found, strict=True):
                whole = (*reading.prefix, *reading.tail)
                split = len(whole) - reading.scored
                expected = plain_logprobs(MODELS[name], whole[:split], whole[split:])
                np.testing.assert_allclose(logprobs, expected, atol=1e-5)


def test_what_was_not_used_for_longest_is_forgotten() -> None:
    cache = PrefixCache(3 * 40)
    for number in range(3):
        cache.put((number,), torch.zeros(10))
    assert cache.get((0,)) is not None and cache.get((7,)) is None
    cache.put((3,), torch.zeros(10))
    assert [number for number in range(4) if (number,) in cache] == [0, 2, 3] and cache.bytes == 120
    cache.put((3,), torch.zeros(10))
    cache.put((4,), torch.zeros(20))
    assert [number for number in range(5) if (number,) in cache] == [3, 4] and cache.bytes == 120
    cache.put((5,), torch.zeros(31))
    assert len(cache) == 0 and cache.bytes == 0


def test_forgetting_changes_no_logprob() -> None:
    some = [Reading((1, 2, *[n] * 9), 2, (3, n, 4), 2) for n in range(8)]
    remembers, forgets = Reader(MODELS["llama"], 2**28), Reader(MODELS["llama"], 6000)
    for _ in range(2):
        for found, expected in zip(forgets.logprobs(some), remembers.logprobs(some), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 0 < len(forgets._cache) < len(remembers._cache) == 9
    assert forgets._cache.bytes <= 6000
