"""Documents as passages: nothing is lost, the right ones are chosen, and another corpus is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_attr as da
from dist_attr.config import ProbeConfig
from dist_attr.corpus import Document, encode, load_tokenizer
from dist_attr.errors import CorpusError, QueryError
from dist_attr.probing import Passage, Passages
from tests.stores import make_store

TOKENIZER = load_tokenizer("bytes", [])


def document(source: str, name: str, text: str) -> Document:
    return Document(name, text, source, {})


DOCUMENTS = [
    document("poets", "ode", "the nightingale sings in the dark wood"),
    document("law", "treaty", "the high contracting parties agree to arbitration and to nothing else at all"),
    document("poets", "sonnet", "shall I compare thee to a summer's day"),
    document("law", "tax", "income from tariffs is taxed"),
    document("poets", "ballad", "the sailor went to sea"),
    document("single", "only", "one two three four five six seven eight"),
]
SOURCES = ["law", "poets", "single"]


@pytest.fixture(scope="module")
def passages() -> Passages:
    return Passages(SOURCES, DOCUMENTS, TOKENIZER, 32)


def names(chosen: list[Passage]) -> list[tuple[str, int]]:
    return [(each.document, each.window) for each in chosen]


@settings(deadline=None, max_examples=50)
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=4),
    window=st.integers(1, 40),
)
def test_windows_are_the_whole_document(texts: list[str], window: int) -> None:
    found = Passages(["a"], [document("a", str(i), text) for i, text in enumerate(texts)], TOKENIZER, window)
    by_document: dict[str, list[Passage]] = {}
    for each in found:
        by_document.setdefault(each.document, []).append(each)
    for i, text in enumerate(texts):
        own = by_document[str(i)]
        assert [token for each in own for token in each.tokens] == encode(TOKENIZER, text)
        assert [each.window for each in own] == list(range(len(own))) and {each.windows for each in own} == {len(own)}
        assert all(len(each.tokens) == window for each in own[:-1]) and 0 < len(own[-1].tokens) <= window


def test_bm25_takes_the_window_that_shares_words(passages: Passages) -> None:
    query = da.Query(prompt="About ARBITRATION:", completion=" The sailor.")
    chosen = passages.choose(query, ProbeConfig(documents=1))
    assert [each.source for each in chosen] == SOURCES
    assert names(chosen[:2]) == [("treaty", 1), ("ballad", 0)] and b"arbitration" in bytes(chosen[0].tokens)
    scores = passages.bm25(query)
    assert scores.shape == (3,) and scores[2] == 0 and scores[:2].min() > 0
    np.testing.assert_array_equal(passages.bm25(da.Query(prompt="", completion="?!")), [0, 0, 0])


def test_each_document_comes_before_further_windows_of_any(passages: Passages) -> None:
    query = da.Query(prompt="", completion="high contracting parties agree to arbitration")
    for choose in ("bm25", "random"):
        config = ProbeConfig.model_validate({"documents": 3, "choose": choose})
        chosen = passages.choose(query, config)
        assert [each.source for each in chosen] == ["law"] * 3 + ["poets"] * 3 + ["single"] * 2
        assert {each.document for each in chosen[:2]} == {"treaty", "tax"} and chosen[0] != chosen[2]
        assert {each.document for each in chosen[3:6]} == {"ode", "sonnet", "ballad"}
        assert sorted(names(chosen[6:])) == [("only", 0), ("only", 1)]
        every = passages.choose(query, config.model_copy(update={"documents": 64}))
        assert len(every) == len(set(every)) == len(passages)


def test_a_random_choice_is_seeded_and_the_same_for_all_queries(passages: Passages) -> None:
    one, other = da.Query(completion="arbitration"), da.Query(completion="a summer's day")
    drawn = [
        tuple(names(passages.choose(query, ProbeConfig(documents=1, choose="random", seed=seed))))
        for seed in range(200)
        for query in (one, other)
    ]
    assert drawn[::2] == drawn[1::2]
    poets = [document for (_, (document, _), _) in drawn[::2]]
    # A document's chance does not depend on its length, and each of its windows has the same.
    assert all(40 < poets.count(name) < 95 for name in ("ode", "sonnet", "ballad"))
    windows = [window for (_, _, (_, window)) in drawn[::2]]
    assert all(70 < windows.count(number) < 130 for number in range(2))


def test_sources_can_be_chosen(passages: Passages) -> None:
    query = da.Query(completion="arbitration")
    chosen = passages.choose(query, ProbeConfig(documents=1), ["single", "law"])
    assert [each.source for each in chosen] == ["single", "law"]
    with pytest.raises(QueryError, match="there is no source 'nobody'; the store has 'law', 'poets', 'single'"):
        passages.choose(query, ProbeConfig(), ["law", "nobody"])


def test_the_documents_are_those_of_the_store(tmp_path: Path) -> None:
    store = make_store(tmp_path, SOURCES, documents=DOCUMENTS)
    found = Passages.of(store, TOKENIZER, 16)
    assert found.sources == SOURCES and len(found) == len(Passages(SOURCES, DOCUMENTS, TOKENIZER, 16))
    place = tmp_path / "documents.jsonl"
    elsewhere = place.rename(tmp_path / "moved.jsonl")
    known = store.manifest.corpus[:12]
    message = rf"documents with the fingerprint {known}…, and those at .*documents\.jsonl cannot be used: .* not exist"
    with pytest.raises(CorpusError, match=message):
        Passages.of(store, TOKENIZER, 16)
    assert list(Passages.of(store, TOKENIZER, 16, str(elsewhere))) == list(found)
    rows = [json.loads(line) for line in elsewhere.read_text().splitlines()]
    rows[2]["text"] += "!"
    place.write_text("\n".join(map(json.dumps, rows)))
    message = rf"the fingerprint {known}…, but those at .*documents\.jsonl have [0-9a-f]{{12}}…: they were changed"
    with pytest.raises(CorpusError, match=message):
        Passages.of(store, TOKENIZER, 16)


def test_a_document_without_tokens_is_refused() -> None:
    with pytest.raises(CorpusError, match="document 'void' of source 'law' has no tokens"):
        Passages(["law"], [DOCUMENTS[1], document("law", "void", "")], TOKENIZER, 16)
    with pytest.raises(CorpusError, match="has no tokens"):
        Passage("law", "void", 0, 1, ())


def test_a_source_without_documents_is_refused() -> None:
    with pytest.raises(CorpusError, match="no document of 'nobody'"):
        Passages(["law", "nobody"], DOCUMENTS, TOKENIZER, 16)


def test_texts_without_words_are_no_obstacle() -> None:
    found = Passages(["a"], [document("a", "1", "?!"), document("a", "2", "...")], TOKENIZER, 4)
    assert len(found.choose(da.Query(completion="-"), ProbeConfig())) == 2
