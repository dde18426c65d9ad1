"""One more step on a source, against gradients taken by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_attr.config import TrainingConfig
from dist_attr.corpus import PackedCorpus
from dist_attr.evaluation import completion_logprob, completion_logprobs
from dist_attr.evaluation.tail_patch import Patching, patching_of, ranked
from dist_attr.influence import token_losses
from dist_attr.readout import EncodedQuery
from tests.runs import LENGTH, SOURCES, small_model

RATE = 1e-5
TRAINING = TrainingConfig(steps=1, batch_size=9, sequence_length=LENGTH, learning_rate=RATE, gradient_clipping=0)


def flat(output: Tensor, model: nn.Module) -> Tensor:
    parts = torch.autograd.grad(output, [p for p in model.parameters() if p.requires_grad])
    return torch.cat([part.flatten() for part in parts])


def own_loss(model: nn.Module, corpus: PackedCorpus, source: int) -> Tensor:
    """Mean over the targets of one source in the whole corpus."""
    tokens = torch.from_numpy(corpus.tokens).long()
    losses = token_losses(model(input_ids=tokens[:, :-1]).logits, tokens[:, 1:])
    return losses[torch.from_numpy(corpus.token_sources[:, 1:]) == source].mean()


def test_a_step_changes_a_query_by_the_product_of_gradients(corpus: PackedCorpus, queries: list[EncodedQuery]) -> None:
    model = small_model("gpt2", torch.float64, trained={"exclude": ["bias"]})
    before = completion_logprobs(model, queries)
    patching = Patching(model, TRAINING, corpus, queries)  # a batch that holds all rows
    for source in range(SOURCES):
        descent = -flat(own_loss(model, corpus, source), model)
        expected = [RATE * float(descent @ flat(completion_logprob(model, query), model)) for query in queries]
        np.testing.assert_allclose(patching.outputs(source) - before, expected, rtol=5e-3)
    np.testing.assert_array_equal(completion_logprobs(model, queries), before)  # the model itself stays


def test_a_step_is_clipped_as_the_run_is(corpus: PackedCorpus, queries: list[EncodedQuery]) -> None:
    model = small_model("gpt2", torch.float64)
    before = completion_logprobs(model, queries)
    norm = float(flat(own_loss(model, corpus, 1), model).norm())
    free, clipped = (
        Patching(model, TRAINING.model_copy(update={"gradient_clipping": most}), corpus, queries).outputs(1) - before
        for most in (0.0, norm / 4)
    )
    np.testing.assert_allclose(clipped, free / 4, rtol=1e-3)


def test_a_large_source_is_stepped_on_in_a_batch_drawn_by_seed(
    corpus: PackedCorpus, queries: list[EncodedQuery]
) -> None:
    model = small_model("gpt2", torch.float64)
    small = TRAINING.model_copy(update={"batch_size": 3})
    first, again = (Patching(model, small, corpus, queries).outputs(0) for _ in range(2))
    other = Patching(model, small.model_copy(update={"seed": 1}), corpus, queries)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other.outputs(0), rtol=0, atol=1e-9)
    assert other.fingerprint != Patching(model, small, corpus, queries).fingerprint


def test_only_what_carries_tangents_is_stepped(corpus: PackedCorpus, queries: list[EncodedQuery]) -> None:
    model = small_model("gpt2")
    names = [name for name, _ in model.named_parameters() if "ln" in name]
    patching = patching_of(model.requires_grad_(False), names, TRAINING, corpus, queries)
    assert [name for name, p in patching.model.named_parameters() if p.requires_grad] == names
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_highest_ranked_stand_against_the_lowest() -> None:
    draw = np.random.default_rng(0)
    change = draw.normal(size=(10, 6))
    good = ranked(change, {"linear": change.T.copy(), "counterfactual": -change.T}, top=2, seed=0)
    right, wrong = good["linear"], good["counterfactual"]
    ordered = np.sort(change, axis=0)
    np.testing.assert_allclose(right.top.per_query, ordered[-2:].mean(axis=0))
    np.testing.assert_allclose(right.bottom.per_query, ordered[:2].mean(axis=0))
    assert right.gap.value == pytest.approx(right.top.value - right.bottom.value) == -wrong.gap.value
    assert right.top.low < right.top.value < right.top.high and right.gap.low > 0
    assert (right.correlation.value, wrong.correlation.value) == pytest.approx((1, -1))
