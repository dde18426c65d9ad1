from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_attr.config import TokenizerConfig, TrainTokenizer
from dist_attr.corpus import Tokenizer, encode, end_of_text_id, load_tokenizer, token_strings, tokenizer_fingerprint
from dist_attr.errors import CorpusError
from tests.corpus.conftest import TEXTS

HARD_TEXT = "  Zoë's e\u0301 \ufb01 ,  don 't\r\n\t漢字 👩‍👩‍👧 \u00a0 12345 <|endoftext|> ▁ \x00 "


def train(vocabulary: int, texts: list[str] = TEXTS) -> Tokenizer:
    return load_tokenizer(TokenizerConfig(train=TrainTokenizer(vocabulary=vocabulary)), texts)


def refusal(path: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        load_tokenizer(str(path), [])
    return str(caught.value)


def test_byte_tokens_are_the_bytes(byte_tokenizer: Tokenizer) -> None:
    assert encode(byte_tokenizer, HARD_TEXT) == list(HARD_TEXT.encode())


def test_byte_vocabulary_is_the_bytes_and_the_end_of_text(byte_tokenizer: Tokenizer) -> None:
    assert len(byte_tokenizer) == 257
    assert end_of_text_id(byte_tokenizer) == 256


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_text_comes_back_exactly(own_tokenizer: Tokenizer, text: str) -> None:
    assert own_tokenizer.decode(encode(own_tokenizer, text)) == text


def test_a_text_cannot_forge_the_end_of_text(own_tokenizer: Tokenizer) -> None:
    assert end_of_text_id(own_tokenizer) not in encode(own_tokenizer, HARD_TEXT)
    assert own_tokenizer.decode(encode(own_tokenizer, HARD_TEXT)) == HARD_TEXT


def test_training_merges_what_is_frequent(trained_tokenizer: Tokenizer) -> None:
    assert len(trained_tokenizer) == 280
    assert token_strings(trained_tokenizer, encode(trained_tokenizer, "the lamp")) == ["the", " lamp"]


def test_training_twice_gives_the_same_tokenizer(trained_tokenizer: Tokenizer) -> None:
    assert tokenizer_fingerprint(train(280)) == tokenizer_fingerprint(trained_tokenizer)


def test_small_corpus_yields_fewer_tokens_than_asked_for() -> None:
    assert 257 <= len(train(5000, ["to be or not to be"])) < 300


def test_saved_tokenizer_gives_the_same_tokens(own_tokenizer: Tokenizer, tmp_path: Path) -> None:
    own_tokenizer.save_pretrained(str(tmp_path))
    loaded = load_tokenizer(str(tmp_path), [])
    assert encode(loaded, HARD_TEXT) == encode(own_tokenizer, HARD_TEXT)
    assert end_of_text_id(loaded) == end_of_text_id(own_tokenizer)
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(own_tokenizer)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gpt_neox"])
def test_saving_next_to_a_model_changes_nothing(own_tokenizer: Tokenizer, tmp_path: Path, model_type: str) -> None:
    transformers.AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    own_tokenizer.save_pretrained(str(tmp_path))
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert encode(loaded, HARD_TEXT) == encode(own_tokenizer, HARD_TEXT)
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(own_tokenizer)


def test_pretrained_class_keeps_its_fingerprint(tmp_path: Path) -> None:
    vocabulary = {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}
    first = transformers.GPT2Tokenizer(vocab=vocabulary, merges=[("a", "b")])
    first.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path), [])
    assert encode(loaded, "abba") == [2, 1, 0]
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(first)


def test_fingerprint_survives_use(own_tokenizer: Any) -> None:
    before = tokenizer_fingerprint(own_tokenizer)
    own_tokenizer(["a long text", "x"], truncation=True, max_length=4, padding=True)
    assert tokenizer_fingerprint(own_tokenizer) == before


def test_different_tokenizers_have_different_fingerprints(
    byte_tokenizer: Tokenizer, trained_tokenizer: Tokenizer
) -> None:
    fingerprints = {tokenizer_fingerprint(item) for item in (byte_tokenizer, trained_tokenizer, train(279))}
    assert len(fingerprints) == 3


def test_token_strings_spell_out_partial_characters(byte_tokenizer: Tokenizer) -> None:
    strings = token_strings(byte_tokenizer, [*encode(byte_tokenizer, "a é\n"), 256])
    assert strings == ["a", " ", "<0xC3>", "<0xA9>", "\n", "<|endoftext|>"]


def test_token_strings_keep_whole_characters_beside_partial_ones() -> None:
    # The first bytes of 漢 and 漠 are the same, so that the merges end inside of a character.
    tokenizer = train(262, [" 漢 漠" * 50])
    assert " <0xE6><0xBC>" in token_strings(tokenizer, range(len(tokenizer)))


def test_token_strings_of_a_replacement_character_are_itself() -> None:
    tokenizer = train(259, ["\ufffd" * 50])
    assert "\ufffd" in token_strings(tokenizer, encode(tokenizer, "\ufffd"))


def test_token_strings_keep_the_spaces_of_sentencepiece() -> None:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁the": 3, "▁": 4, "<0xC3>": 5}
    tokenizer = transformers.LlamaTokenizer(vocab=vocabulary, merges=[])
    assert token_strings(tokenizer, [3, 3, 5, 2]) == [" the", " the", "<0xC3>", "</s>"]


def test_missing_tokenizer_is_refused_with_the_other_choices(tmp_path: Path) -> None:
    message = refusal(tmp_path / "absent")
    assert f"no tokenizer can be loaded from {tmp_path / 'absent'}" in message
    assert "`bytes` or `{train: {vocabulary: 2048}}`" in message


def test_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "no tokenizer can be loaded" in refusal(tmp_path)


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox"])
def test_model_without_tokenizer_is_refused(tmp_path: Path, model_type: str) -> None:
    transformers.AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    assert "holds a model but no tokenizer" in refusal(tmp_path)


def test_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    transformers.ByT5Tokenizer().save_pretrained(tmp_path)
    assert "has no fast form" in refusal(tmp_path)


def test_tokenizer_without_end_of_text_is_refused(byte_tokenizer: Any, tmp_path: Path) -> None:
    transformers.PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer.backend_tokenizer).save_pretrained(tmp_path)
    assert "has no end-of-text token; set its eos_token" in refusal(tmp_path)
