"""Probing: exact however it is batched and remembered, and without a trace in the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dist_attr as da
from dist_attr.config import ProbeConfig
from dist_attr.corpus import Tokenizer, load_tokenizer
from dist_attr.errors import ConfigError, ModelError, QueryError, StoreError
from dist_attr.models import Prefix, read_after
from dist_attr.probing import Passage, Prober, by_source, golden_score, reader
from tests.probing.models import CONTEXT, LORA, byte_model, passage, plain_logprobs
from tests.stores import GPT2, make_store

START, MIDDLE, END = "Read:\n", "\n\nAsk: ", " Say:"
CONFIG = ProbeConfig(template=f"{START}{{document}}{MIDDLE}{{prompt}}{END}")
QUERIES = [
    da.Query(prompt="the state of", completion=" the union"),
    da.Query(prompt="", completion="é"),
    da.Query(prompt="who? ", completion="x"),
    da.Query(prompt="the state of", completion=" war and of peace"),
    da.Query(prompt="a longer prompt than the others", completion=" no"),
]
PASSAGES = [
    passage("the union is strong", "a"),
    passage("war", "b"),
    passage("w", "b"),
    passage("peace and the state of the world", "c"),
]
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{{ '<model>' if add_generation_prompt }}"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("bytes", [])


@pytest.fixture(scope="module")
def prober(tokenizer: Tokenizer) -> Prober:
    return Prober(byte_model("llama"), tokenizer, CONFIG)


@pytest.mark.parametrize(
    ("name", "trained"),
    [("gpt2", {}), ("llama", {}), ("gpt_neox", {}), ("gpt2", LORA), ("llama", LORA)],
    ids=["gpt2", "llama", "gpt_neox", "gpt2-lora", "llama-lora"],
)
def test_scores_are_those_of_whole_prompts(name: str, trained: dict[str, Any], tokenizer: Tokenizer) -> None:
    model = byte_model(name, trained)
    # Every query with passages of its own, in an order of its own, some twice.
    own = [[PASSAGES[i] for i in order] for order in ([0, 1, 2, 3], [3, 0], [2], [1, 1, 3], [])]
    for probe, query, passages in zip(Prober(model, tokenizer, CONFIG).probe(QUERIES, own), QUERIES, own, strict=True):
        completion = list(query.completion.encode())
        without = plain_logprobs(model, list(query.prompt.encode()) or [256], completion)
        np.testing.assert_allclose(probe.logprobs, without, atol=1e-5)
        assert probe.passages == passages and probe.token_scores.shape == (len(passages), len(completion))
        for scores, each in zip(probe.token_scores, passages, strict=True):
            prompt = [*START.encode(), *each.tokens, *(MIDDLE + query.prompt + END).encode()]
            np.testing.assert_allclose(scores, plain_logprobs(model, prompt, completion) - without, atol=1e-5)
        np.testing.assert_allclose(probe.scores, probe.token_scores.sum(1), atol=1e-5)


@pytest.mark.parametrize("template", ["{document}{prompt}", "Read {document}{prompt}"])
def test_nothing_need_stand_between_passage_and_completion(template: str, tokenizer: Tokenizer) -> None:
    model, config = byte_model("gpt2"), ProbeConfig(template=template)
    found = Prober(model, tokenizer, config).probe([QUERIES[1]], [PASSAGES])[0]
    completion = list(QUERIES[1].completion.encode())
    without = plain_logprobs(model, [256], completion)
    for scores, each in zip(found.token_scores, PASSAGES, strict=True):
        prompt = [*config.pieces[0].encode(), *each.tokens]
        np.testing.assert_allclose(scores, plain_logprobs(model, prompt, completion) - without, atol=1e-5)


def test_a_prompt_may_fill_the_context(tokenizer: Tokenizer) -> None:
    config, text = ProbeConfig(template="{document}{prompt}"), "abcdefgh" * 6
    for name in ("gpt2", "llama"):
        model = byte_model(name)
        full = da.Query(prompt="p" * (CONTEXT + 1 - 48 - 5), completion="12345")
        prober = Prober(model, tokenizer, config)
        scores = prober.probe([full, QUERIES[0]], [[passage(text)], [passage(text)]])[0].token_scores[0]
        completion = list(full.completion.encode())
        after = plain_logprobs(model, list((text + full.prompt).encode()), completion)
        without = plain_logprobs(model, list(full.prompt.encode()), completion)
        np.testing.assert_allclose(scores, after - without, atol=1e-5)
        longer = full.model_copy(update={"prompt": full.prompt + "p"})
        message = (
            r"query 1: the passage \(48 tokens\), the template with the prompt \(45\) and the completion \(5\) do not "
            r"fit the model's context of 96 tokens; shorten .* smaller window \(--window\) than 48 tokens"
        )
        with pytest.raises(QueryError, match=message):
            prober.probe([full, longer], [[], [passage(text)]])


def test_another_sources_passage_changes_the_score(prober: Prober) -> None:
    one, other = (prober.probe(QUERIES[:1], [[each]])[0].scores[0] for each in (PASSAGES[0], PASSAGES[3]))
    assert abs(one - other) > 1e-2
    swapped = prober.probe(QUERIES[:1], [[PASSAGES[3], PASSAGES[0]]])[0].scores
    np.testing.assert_allclose(swapped, [other, one], atol=1e-5)


def test_probing_leaves_model_and_influence_as_they_were(tmp_path: Path) -> None:
    attributor = da.Attributor(make_store(tmp_path, ["a", "b", "c"], context=CONTEXT))
    module = attributor.engine.module
    before = attributor.attribute(QUERIES).scores
    state = {name: (value.clone(), value.requires_grad) for name, value in module.named_parameters()}
    probes = Prober(module, attributor.engine.tokenizer, CONFIG).probe(QUERIES, [PASSAGES] * len(QUERIES))
    assert all(np.abs(probe.scores).max() > 0 for probe in probes)
    for name, value in module.named_parameters():
        assert torch.equal(value, state[name][0]) and value.requires_grad == state[name][1]
    np.testing.assert_array_equal(attributor.attribute(QUERIES).scores, before)


def test_a_passage_is_read_once_as_long_as_it_is_remembered(tokenizer: Tokenizer) -> None:
    model, read = byte_model("llama"), [0]
    model.get_input_embeddings().register_forward_hook(  # type: ignore[operator]
        lambda module, inputs, output: read.append(read.pop() + inputs[0].numel())
    )

    def tokens(prober: Prober, query: da.Query) -> int:
        read[0] = 0
        prober.probe([query], [PASSAGES[-1:]])
        return read[0]

    whole = [tokens(Prober(model, tokenizer, CONFIG), query) for query in QUERIES]
    remembers, forgets = Prober(model, tokenizer, CONFIG), Prober(model, tokenizer, CONFIG, cache_bytes=0)
    assert tokens(remembers, QUERIES[0]) == whole[0]
    once = len(START) + len(PASSAGES[-1].tokens)
    assert [tokens(remembers, query) for query in QUERIES] == [count - once for count in whole]
    assert len({tokens(forgets, QUERIES[0]) for _ in range(3)}) == 1


def test_the_store_has_the_model(tmp_path: Path) -> None:
    store = make_store(tmp_path / "one", ["a", "b"], context=CONTEXT)
    make_store(tmp_path / "other", ["a", "b"], settings=GPT2, context=CONTEXT)
    prober = Prober.of(store, CONFIG)
    same = Prober(da.Attributor(store).engine.module, prober.tokenizer, CONFIG)
    found, expected = (each.probe(QUERIES[:1], [PASSAGES])[0].scores for each in (prober, same))
    np.testing.assert_array_equal(found, expected)
    template = sum(len(piece.encode()) for piece in CONFIG.pieces)  # a token for each byte
    assert prober.window == (CONTEXT - template) // 2 and prober.context == CONTEXT
    with pytest.raises(StoreError, match="belongs to another model"):
        Prober.of(store, CONFIG, str(tmp_path / "other" / "model"))


def test_a_chat_models_template_goes_around_everything() -> None:
    model, tokenizer = byte_model("gpt2"), load_tokenizer("bytes", [])
    tokenizer.chat_template = CHAT
    config = ProbeConfig(template="See {document}: {prompt}", chat=True)
    query = da.Query(prompt="who\ue000?", completion="me")
    found = Prober(model, tokenizer, config).probe([query], [PASSAGES[:1]])[0]
    without = plain_logprobs(model, list("<user>who\ue000?</><model>".encode()), list(b"me"))
    np.testing.assert_allclose(found.logprobs, without, atol=1e-5)
    prompt = f"<user>See {PASSAGES[0].document}: who\ue000?</><model>"
    after = plain_logprobs(model, list(prompt.encode()), list(b"me"))
    np.testing.assert_allclose(found.token_scores[0], after - without, atol=1e-5)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template; leave chat out"),
        ("{{ raise_exception('no users') }}", "does not take a user's message: no users"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "changes or repeats a user's message"),
    ],
)
def test_a_chat_needs_a_chat_template(template: str | None, message: str) -> None:
    tokenizer = load_tokenizer("bytes", [])
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=message):
        Prober(byte_model("gpt2"), tokenizer, ProbeConfig(template="{document}{prompt}", chat=True))


def test_a_window_must_leave_room(tokenizer: Tokenizer) -> None:
    model = byte_model("gpt2")
    room = CONTEXT - len(START + MIDDLE + END)
    Prober(model, tokenizer, CONFIG.model_copy(update={"window": room})).probe(
        [da.Query(completion="x")], [[passage("x" * room)]]
    )
    message = rf"window of {room + 1} tokens and the template's 18 leave no room .* of at most {room} tokens"
    with pytest.raises(ConfigError, match=message):
        Prober(model, tokenizer, CONFIG.model_copy(update={"window": room + 1}))
    with pytest.raises(ConfigError, match="tokens; take a shorter template"):
        Prober(model, tokenizer, ProbeConfig(template="t" * CONTEXT + "{document}{prompt}"))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (da.Query(prompt="a", completion=""), "query 1: the completion is empty"),
        (da.Query.model_construct(prompt="\ud800", completion="b", baseline=None), "query 1: the text is not valid"),
        (da.Query(prompt="a", completion="b", baseline="c"), "query 1: in-context probing does not compare"),
        (da.Query(prompt="a" * 200, completion="b"), r"query 1: prompt \(200 tokens\)"),
    ],
)
def test_what_cannot_be_probed_is_refused(query: da.Query, message: str, prober: Prober) -> None:
    with pytest.raises(QueryError, match=message):
        prober.probe([QUERIES[0], query], [PASSAGES, PASSAGES])


def test_a_model_that_would_be_misread_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError, match=r"training mode.* call its eval\(\)"):
        Prober(byte_model("gpt2").train(), tokenizer, CONFIG)
    other = byte_model("gpt2")
    other.config.model_type = "gemma2"  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="'gemma2' is not supported"):
        Prober(other, tokenizer, CONFIG)


def test_less_memory_takes_smaller_batches_and_none_is_refused(prober: Prober, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [probe.scores for probe in prober.probe(QUERIES, [PASSAGES] * len(QUERIES))]
    sizes: list[int] = []
    free = 2**62
    monkeypatch.setattr(reader, "free_memory", lambda device: free)

    def seen(model: nn.Module, prefixes: Sequence[Prefix], tokens: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        sizes.append(len(prefixes))
        return read_after(model, prefixes, tokens, offsets)

    monkeypatch.setattr(reader, "read_after", seen)
    prober.probe(QUERIES, [PASSAGES] * len(QUERIES))
    most = max(sizes)
    while max(sizes) == most:
        free //= 2
        sizes.clear()
        found = prober.probe(QUERIES, [PASSAGES] * len(QUERIES))
    for probe, scores in zip(found, expected, strict=True):
        np.testing.assert_allclose(probe.scores, scores, atol=1e-5)
    free = 1000
    with pytest.raises(QueryError, match="do not fit into the memory of a probe; shorten the prompt"):
        prober.probe(QUERIES, [PASSAGES] * len(QUERIES))


def test_progress_counts_every_prompt(prober: Prober) -> None:
    done: list[int] = []
    prober.probe(QUERIES[:2], [PASSAGES, PASSAGES[:1]], done.append)
    assert sum(done) == 2 + 4 + 1
    assert prober.probe([], []) == []


def test_sources_sum_up_their_passages(prober: Prober) -> None:
    second = Passage("b", "war", 1, 2, tuple(b" and more of it"))
    probe = prober.probe(QUERIES[:1], [[*PASSAGES, second]])[0]
    b, a = by_source(probe, ["b", "a"])
    scores = probe.scores[[1, 2, 4]]
    assert (b.source, b.documents, a.documents) == ("b", 2, 1)
    assert b.best == scores.max() and b.median == np.median(scores) and b.mean == pytest.approx(scores.mean())
    assert a.mean == a.median == a.best == probe.scores[0]
    with pytest.raises(QueryError, match="no passage of the source 'nobody'"):
        by_source(probe, ["a", "nobody"])


def test_the_golden_score_is_a_share_of_queries() -> None:
    np.testing.assert_array_equal(golden_score(np.array([[1.0, -1, 0], [2, 3, -1]])), [1, 0.5, 0])
    with pytest.raises(QueryError, match="there are none"):
        golden_score(np.empty((0, 3)))
