"""A tiny run with its model, corpus and queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dist_attr.config import ModelConfig
from dist_attr.corpus import PackedCorpus, SourceSummary
from dist_attr.readout import EncodedQuery
from tests.runs import LENGTH, MODELS, SOURCES, VOCABULARY

GPT2 = ModelConfig(config=MODELS["gpt2"])


@pytest.fixture
def corpus() -> PackedCorpus:
    """Rows whose tokens have mixed sources, the last one with padding."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, VOCABULARY, (9, LENGTH + 1)).astype(np.int32)
    sources = draw.integers(0, SOURCES, (9, LENGTH + 1)).astype(np.int32)
    sources[-1, -5:] = -1
    names = (SourceSummary(str(source), 1, int((sources == source).sum()), ()) for source in range(SOURCES))
    return PackedCorpus(tokens, sources, tuple(names), "fingerprint")


@pytest.fixture
def queries() -> list[EncodedQuery]:
    """Two queries of different lengths."""
    return [EncodedQuery((3, 1, 4, 1, 5, 9), 4), EncodedQuery((2, 7), 1)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
