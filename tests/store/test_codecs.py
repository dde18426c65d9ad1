"""Law 7: what a codec promises holds, for every number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from dist_attr.config import CodecName, StoreConfig
from dist_attr.store import Codec, Encoded
from dist_attr.store.codecs import LARGEST, PIECE

NAMES: tuple[CodecName, ...] = ("float32", "bfloat16", "int8", "int4")
BLOCKS = (16, 64, 256)
codecs = st.builds(
    lambda name, block: Codec.of(StoreConfig(codec=name, block_size=block)),
    st.sampled_from(NAMES),
    st.sampled_from(BLOCKS),
)
# Every magnitude that float32 has, subnormal ones too.
numbers = st.floats(-LARGEST, LARGEST, width=32, allow_subnormal=True)


def decoded(codec: Codec, encoded: Encoded, size: int) -> NDArray[np.float32]:
    out = np.full(size, np.nan, np.float32)
    codec.decode(encoded, out)
    return out


def assert_within_bound(codec: Codec, row: NDArray[np.float32]) -> None:
    encoded = codec.encode(row)
    assert encoded.values.shape == (codec.length(len(row)),) and encoded.values.dtype == codec.dtype
    assert encoded.scales.shape == (codec.blocks(len(row)),)
    errors = np.abs(decoded(codec, encoded, len(row)).astype(np.float64) - row)
    assert (errors <= codec.bound(row)).all()


@given(codecs, arrays(np.float32, st.integers(1, 700), elements=numbers))
@settings(deadline=None, max_examples=200)
def test_law_7_every_error_is_within_its_bound(codec: Codec, row: NDArray[np.float32]) -> None:
    assert_within_bound(codec, row)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, PIECE - 1, PIECE, 2 * PIECE + 777])
def test_law_7_over_many_pieces(name: CodecName, size: int) -> None:
    draw = np.random.default_rng(size)
    row = (draw.standard_t(2, size) * 10.0 ** draw.integers(-6, 2, size)).astype(np.float32)
    assert_within_bound(Codec.of(StoreConfig(codec=name)), row)


@pytest.mark.parametrize("name", NAMES)
def test_zeros_and_the_largest_number_of_a_block_are_kept(name: CodecName) -> None:
    codec = Codec.of(StoreConfig(codec=name, block_size=16))
    row = np.zeros(48, np.float32)
    row[20] = -3.0
    got = decoded(codec, codec.encode(row), 48)
    np.testing.assert_allclose(got, row, rtol=1e-6)


def test_bfloat16_is_torchs() -> None:
    import torch

    row = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    stored: Any = Codec.of(StoreConfig(codec="bfloat16")).encode(row).values
    assert np.array_equal(stored, torch.from_numpy(row).bfloat16().view(torch.uint16).numpy())


def test_int8_is_half_a_step_off_at_most_on_average_a_quarter() -> None:
    """The bound is no idle one: errors reach it nearly."""
    codec = Codec.of(StoreConfig(codec="int8", block_size=64))
    row = np.random.default_rng(0).standard_normal(64_000).astype(np.float32)
    share = np.abs(decoded(codec, codec.encode(row), len(row)) - row) / codec.bound(row)
    assert 0.99 < share.max() <= 1 and 0.49 < share.mean() < 0.51
