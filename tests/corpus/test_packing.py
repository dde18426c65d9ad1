from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_attr.corpus import Document, SourceSummary, Tokenizer, corpus_fingerprint, pack

END = 256


def documents_of(*pairs: tuple[str, str]) -> list[Document]:
    return [Document(f"d{number}", text, source, {}) for number, (text, source) in enumerate(pairs)]


corpora = st.lists(st.tuples(st.text(min_size=1, max_size=20), st.sampled_from("pqrs")), min_size=1, max_size=8)


@settings(deadline=None)
@given(pairs=corpora, length=st.integers(1, 30))
def test_every_token_is_a_target_once_with_its_source(
    byte_tokenizer: Tokenizer, pairs: list[tuple[str, str]], length: int
) -> None:
    packed = pack(documents_of(*pairs), byte_tokenizer, length)
    stream = [(token, source) for text, source in pairs for token in [*text.encode(), END]]
    names = [*(source.name for source in packed.sources), "padding"]  # -1 is the last
    targets = zip(packed.tokens[:, 1:].flat, packed.token_sources[:, 1:].flat, strict=True)
    seen = [(int(token), names[source]) for token, source in targets]
    assert seen[: len(stream) - 1] == stream[1:]
    assert set(seen[len(stream) - 1 :]) <= {(END, "padding")}
    assert len(seen) - len(stream) + 1 < length


@settings(deadline=None)
@given(pairs=corpora, length=st.integers(1, 30))
def test_each_row_begins_with_the_last_token_of_the_row_before(
    byte_tokenizer: Tokenizer, pairs: list[tuple[str, str]], length: int
) -> None:
    packed = pack(documents_of(*pairs), byte_tokenizer, length)
    np.testing.assert_array_equal(packed.tokens[1:, 0], packed.tokens[:-1, -1])
    np.testing.assert_array_equal(packed.token_sources[1:, 0], packed.token_sources[:-1, -1])


def test_rows_are_what_the_documents_say(byte_tokenizer: Tokenizer) -> None:
    packed = pack(documents_of(("abc", "p"), ("de", "q")), byte_tokenizer, 4)
    assert packed.tokens.tolist() == [[97, 98, 99, END, 100], [100, 101, END, END, END]]
    assert packed.token_sources.tolist() == [[0, 0, 0, 0, 1], [1, 1, 1, -1, -1]]
    assert packed.tokens.dtype == packed.token_sources.dtype == np.int32


def test_a_stream_that_fits_needs_no_padding(byte_tokenizer: Tokenizer) -> None:
    packed = pack(documents_of(("abcd", "p"), ("efg", "q")), byte_tokenizer, 4)
    assert packed.tokens.shape == (2, 5)
    assert (packed.token_sources >= 0).all()


def test_a_long_document_goes_on_in_the_next_rows(byte_tokenizer: Tokenizer) -> None:
    text = "abcdefghijklmnopqrstuvwxyz"
    packed = pack(documents_of((text, "p"), ("x", "q")), byte_tokenizer, 4)
    stream = [*packed.tokens[0], *packed.tokens[1:, 1:].flat]
    assert bytes(stream[: len(text)]).decode() == text


def test_sources_are_summed_up_in_order_of_first_appearance(byte_tokenizer: Tokenizer) -> None:
    packed = pack(documents_of(("ab", "q"), ("é", "p"), ("c", "q"), ("d", "q"), ("e", "q")), byte_tokenizer, 8)
    assert packed.sources == (SourceSummary("q", 4, 9, ("d0", "d2", "d3")), SourceSummary("p", 1, 3, ("d1",)))


def test_tokens_of_the_sources_are_all_tokens(byte_tokenizer: Tokenizer) -> None:
    packed = pack(documents_of(("ab", "q"), ("cdefg", "p"), ("h", "q")), byte_tokenizer, 3)
    assert sum(source.tokens for source in packed.sources) == 11
    # The tokens that two rows share are counted once.
    assert (packed.token_sources >= 0).sum() - (len(packed.tokens) - 1) == 11


def test_fingerprint_depends_on_the_documents_alone(byte_tokenizer: Tokenizer, trained_tokenizer: Tokenizer) -> None:
    documents = documents_of(("ab", "q"), ("cd", "p"))
    assert pack(documents, byte_tokenizer, 3).fingerprint == pack(documents, trained_tokenizer, 5).fingerprint
    assert pack(documents, byte_tokenizer, 3).fingerprint == corpus_fingerprint(documents)


@pytest.mark.parametrize("change", [{"id": "d2"}, {"text": "cd "}, {"source": "q"}])
def test_fingerprint_changes_with_every_field(change: dict[str, Any]) -> None:
    first, second = documents_of(("ab", "q"), ("cd", "p"))
    assert corpus_fingerprint([first, second]) != corpus_fingerprint([first, replace(second, **change)])


def test_fingerprint_changes_with_the_order() -> None:
    documents = documents_of(("ab", "q"), ("cd", "p"))
    assert corpus_fingerprint(documents) != corpus_fingerprint(documents[::-1])


def test_fingerprint_changes_when_a_character_moves_to_the_next_field() -> None:
    assert corpus_fingerprint([Document("ab", "d", "c", {})]) != corpus_fingerprint([Document("a", "d", "bc", {})])
    assert corpus_fingerprint([Document("a", "d", "bc", {})]) != corpus_fingerprint([Document("a", "cd", "b", {})])
