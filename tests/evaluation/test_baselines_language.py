"""The baselines on a causal language model: pieces of rows, and what each method makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_attr.config import ModelConfig, TrainingConfig
from dist_attr.corpus import Document, PackedCorpus, batch_schedule, load_tokenizer, pack
from dist_attr.errors import ConfigError
from dist_attr.evaluation import Retraining, completion_logprob, completion_logprobs, gradient_dot
from dist_attr.evaluation.baselines import (
    BM25,
    Ekfac,
    InfluenceCG,
    InfluenceLiSSA,
    Similarity,
    TracIn,
    Trained,
    Trak,
    language_model,
    library,
)
from dist_attr.readout import EncodedQuery
from tests.evaluation.small_baselines import small_classifier
from tests.runs import LENGTH, MODELS, SOURCES, VOCABULARY

# 13 rows for a corpus of 9: some are used twice.
TRAINING = TrainingConfig(steps=13, batch_size=1, sequence_length=LENGTH)
LORA: dict[str, Any] = {"lora": {"rank": 2}}


def run_of(corpus: PackedCorpus, queries: list[EncodedQuery], name: str = "gpt2", **trained: Any) -> Retraining:
    config = ModelConfig(config=MODELS[name], **trained)
    return Retraining(config, TRAINING, corpus, VOCABULARY, 0, queries)


@pytest.fixture
def run(corpus: PackedCorpus, queries: list[EncodedQuery]) -> Retraining:
    return run_of(corpus, queries)


def trained_by(run: Retraining) -> tuple[nn.Module, Trained]:
    model = run.train([1.0] * SOURCES)
    return model, language_model(run, [model.state_dict()])


def test_pieces_are_what_the_run_was_trained_on(run: Retraining) -> None:
    expected: list[dict[tuple[int, ...], Tensor]] = [{} for _ in range(SOURCES)]
    for (row,) in batch_schedule(len(run.corpus.tokens), 1, TRAINING.steps, TRAINING.seed):
        tokens = tuple(run.corpus.tokens[row].tolist())
        for source, of in enumerate(expected):
            own = torch.from_numpy(run.corpus.token_sources[row, 1:] == source).float()
            if own.any():
                of[tokens] = of.get(tokens, torch.zeros(LENGTH)) + own
    trained = language_model(run, [run.start().state_dict()])
    assert sum(map(len, expected)) == len(trained.sources)
    for tokens, counts, source in zip(*trained.examples, trained.sources, strict=True):
        torch.testing.assert_close(counts, expected[source][tuple(tokens.tolist())])


def test_logits_count_in_what_fits_in_memory(
    corpus: PackedCorpus, queries: list[EncodedQuery], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(corpus, queries, **LORA)
    trained = language_model(run, [run.start().state_dict()])
    monkeypatch.setattr(library, "HELD", 3 * (trained.parameter_count + LENGTH * VOCABULARY))
    assert library.gradient_batch(trained) == 3


def test_padded_queries_are_the_queries(run: Retraining) -> None:
    model, trained = trained_by(run)
    found = trained.task.predictions(model, dict(model.named_parameters()), trained.queries).logprob
    np.testing.assert_allclose(found.detach().numpy(), completion_logprobs(model, run.queries), rtol=1e-5)


@pytest.mark.parametrize("trained", [{}, LORA])
def test_pieces_add_up_to_the_gradient_dot_product(
    trained: dict[str, Any], corpus: PackedCorpus, queries: list[EncodedQuery]
) -> None:
    run = run_of(corpus, queries, **trained)
    model, given = trained_by(run)
    expected = gradient_dot(model, corpus, TRAINING, queries)
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(TracIn()(given), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "trained"), [("gpt2", {}), ("llama", {}), ("gpt2", LORA)])
def test_ekfac_with_great_damping_is_the_gradient_dot_product_of_its_layers(
    name: str, trained: dict[str, Any], corpus: PackedCorpus, queries: list[EncodedQuery]
) -> None:
    run = run_of(corpus, queries, name, **trained)
    model, given = trained_by(run)
    for layer, parameter in model.named_parameters():
        inside = any(part in layer for part in ("attn.", "mlp.", "proj.")) and parameter.requires_grad
        parameter.requires_grad_(inside)
    mean = float(given.examples[1].sum()) / len(given.sources)  # of how often a piece's targets count
    expected = gradient_dot(model, corpus, TRAINING, queries) / mean
    found = 1e6 * Ekfac(damping=1e6)(given)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "baseline", [Trak(8), InfluenceCG(1.0, 3), InfluenceLiSSA(1.0, 500.0, 4, 4), Ekfac(0.1), Similarity("dot")]
)
def test_a_source_without_pieces_scores_nothing(baseline: Any, run: Retraining) -> None:
    corpus = run.corpus
    silent = PackedCorpus(
        corpus.tokens, np.where(corpus.token_sources == 2, 3, corpus.token_sources), corpus.sources, "fingerprint"
    )
    _, trained = trained_by(run_of(silent, list(run.queries)))
    scores = baseline(trained)
    assert scores.shape == (len(run.queries), SOURCES)
    assert (scores[:, 2] == 0).all() and (scores[:, [0, 1, 3]] != 0).all() and np.isfinite(scores).all()


def test_trak_reads_a_piece_as_a_sum_of_margins(run: Retraining) -> None:
    model, trained = trained_by(run)
    found = trained.task.predictions(model, dict(model.named_parameters()), trained.examples)
    tokens, counts = (tensor[4] for tensor in trained.examples)
    each = [
        completion_logprob(model, EncodedQuery(tuple(tokens[: at + 1].tolist()), at)).detach().exp()
        for at in range(1, LENGTH + 1)
    ]
    p = torch.stack(each)
    torch.testing.assert_close(found.margin[4], (counts * (p / (1 - p)).log()).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.probability[4], (counts * p).sum() / counts.sum(), rtol=1e-4, atol=1e-5)


def test_similarity_is_the_mean_over_the_tokens_that_count(run: Retraining) -> None:
    model: Any
    model, trained = trained_by(run)
    means = []
    for tokens, counts in (trained.queries, trained.examples):
        hidden = model.transformer(input_ids=tokens[:, :-1]).last_hidden_state.detach()
        rows = zip(hidden, counts, strict=True)
        means.append(torch.stack([(count[:, None] * own).sum(0) / count.sum() for own, count in rows]))
    products = means[0] @ means[1].T
    expected = [products[:, trained.sources == source].sum(1) for source in range(SOURCES)]
    np.testing.assert_allclose(Similarity("dot")(trained), torch.stack(expected, 1).numpy(), rtol=1e-4)


def test_bm25_finds_the_source_whose_words_are_asked() -> None:
    texts = [("a", "the tide is high"), ("b", "a dog barks"), ("a", "the moon pulls the tide"), ("b", "the dog sleeps")]
    tokenizer = load_tokenizer("bytes", [])
    documents = [Document(str(number), text, source, {}) for number, (source, text) in enumerate(texts)]
    corpus = pack(documents, tokenizer, 16)
    asked = [
        EncodedQuery(tuple(tokenizer.encode(text, add_special_tokens=False)), 4) for text in ("The dog", "the tide")
    ]
    training = TrainingConfig(steps=len(corpus.tokens), batch_size=1, sequence_length=16)
    run = Retraining(ModelConfig(config=MODELS["gpt2"]), training, corpus, 257, 256, asked)
    checkpoint = [run.start().state_dict()]
    for baseline in (BM25("best"), BM25("sum")):
        scores = baseline(language_model(run, checkpoint, tokenizer=tokenizer))
        assert scores[0, 1] > scores[0, 0] and scores[1, 0] > scores[1, 1]
    with pytest.raises(ConfigError, match="tokenizer"):
        BM25()(language_model(run, checkpoint))
    with pytest.raises(ConfigError, match="no texts"):
        BM25()(small_classifier())
