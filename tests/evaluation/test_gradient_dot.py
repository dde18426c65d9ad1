"""The gradient dot product against differences of the functions themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_attr.config import TrainingConfig
from dist_attr.corpus import PackedCorpus, SourceSummary, batch_schedule
from dist_attr.evaluation import completion_logprobs, gradient_dot
from dist_attr.influence import ParameterSpace, token_losses
from dist_attr.readout import EncodedQuery
from tests.runs import LENGTH, SOURCES, small_model

# 13 rows for a corpus of 9: some are used twice.
TRAINING = TrainingConfig(steps=13, batch_size=1, sequence_length=LENGTH)


def source_losses(model: nn.Module, corpus: PackedCorpus) -> Tensor:
    """Σ_{j ∈ b} ℓ_j (sources,), row by row in the order of training."""
    total = torch.zeros(SOURCES, dtype=torch.float64)
    for (row,) in batch_schedule(len(corpus.tokens), 1, TRAINING.steps, TRAINING.seed):
        tokens = torch.from_numpy(corpus.tokens[None, row]).long()
        losses = token_losses(model(input_ids=tokens[:, :-1]).logits, tokens[:, 1:])[0]
        for source in range(SOURCES):
            total[source] += losses[torch.from_numpy(corpus.token_sources[row, 1:]) == source].sum()
    return total


@pytest.mark.parametrize("trained", [{}, {"lora": {"rank": 2}}])
def test_score_is_what_a_step_on_the_source_does_to_the_query(
    trained: dict[str, Any], corpus: PackedCorpus, queries: list[EncodedQuery]
) -> None:
    model = small_model("gpt2", torch.float64, trained=trained)
    space = ParameterSpace.of(model)
    theta, step = space.read(model), 1e-6
    scores = gradient_dot(model, corpus, TRAINING, queries)
    assert scores.shape == (2, SOURCES)
    gradients = [
        torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], retain_graph=True)
        for loss in source_losses(model, corpus)
    ]
    for source, gradient in enumerate(gradients):
        descent = -torch.cat([part.flatten() for part in gradient])
        sides = []
        for sign in (1, -1):
            space.write(model, theta + sign * step * descent)
            sides.append(completion_logprobs(model, queries))
        space.write(model, theta)
        np.testing.assert_allclose((sides[0] - sides[1]) / (2 * step), scores[:, source], rtol=1e-5, atol=1e-6)


def test_a_source_is_the_proponent_of_its_own_text() -> None:
    draw = np.random.default_rng(1)
    tokens = np.stack([draw.integers(0, 9, LENGTH + 1), draw.integers(10, 19, LENGTH + 1)]).astype(np.int32)
    sources = tuple(SourceSummary(name, 1, LENGTH, ()) for name in "ab")
    corpus = PackedCorpus(tokens, np.repeat([[0], [1]], LENGTH + 1, 1).astype(np.int32), sources, "fingerprint")
    queries = [EncodedQuery(tuple(int(token) for token in row[:8]), 4) for row in tokens]
    scores = gradient_dot(small_model("gpt2"), corpus, TRAINING.model_copy(update={"steps": 2}), queries)
    assert scores[0, 0] > scores[0, 1]
    assert scores[1, 1] > scores[1, 0]
    assert scores[0, 0] > 0


def test_unit_sources_rank_as_the_cosine_does(corpus: PackedCorpus, queries: list[EncodedQuery]) -> None:
    model = small_model("gpt2", torch.float64)
    dot, unit = (gradient_dot(model, corpus, TRAINING, queries, unit_sources=each) for each in (False, True))
    lengths = []
    for source in range(SOURCES):
        gradient = torch.autograd.grad(source_losses(model, corpus)[source], list(model.parameters()))
        lengths.append(float(torch.cat([part.flatten() for part in gradient]).norm()))
    assert np.ptp(lengths) > 0
    np.testing.assert_allclose(unit * lengths, dot, rtol=1e-9)
