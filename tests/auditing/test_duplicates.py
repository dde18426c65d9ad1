"""Documents that different sources have in common."""

from __future__ import annotations

import numpy as np

from dist_attr.auditing import shared_documents
from dist_attr.corpus import Document

DRAW = np.random.default_rng(0)


def text(words: int) -> str:
    return " ".join(f"w{n}" for n in DRAW.integers(500, size=words))


def document(source: str, name: str, words: str) -> Document:
    return Document(name, words, source, {})


def test_near_duplicates_between_sources_are_found_and_nothing_else() -> None:
    shared, other, own = text(300), text(300), text(200)
    words = shared.split()
    words[150] = "changed"
    documents = [
        document("ant", "a0", shared),
        document("ant", "a1", shared),  # within a source: nobody's credit is at stake
        document("bee", "b0", f"  {' '.join(words).upper()}!"),
        document("bee", "b1", other),
        document("cow", "c0", other.replace(" ", "\n")),
        document("cow", "c1", own),
        document("dog", "d0", " ".join(own.split()[:100])),  # half of it is not nearly the same
        *(document("elk", f"e{n}", text(100)) for n in range(20)),
    ]
    found = shared_documents(documents)
    assert [(pair.first, pair.second, pair.first_documents, pair.second_documents) for pair in found] == [
        ("ant", "bee", 2, 1),
        ("bee", "cow", 1, 1),
    ]
    assert found[1].examples[0].model_dump() == {"first": "b1", "second": "c0", "similarity": 1.0}
    # One word of 300 is in five of 296 runs.
    assert abs(found[0].examples[0].similarity - 291 / 301) < 0.07


def test_what_many_documents_hold_is_counted_for_each_pair_of_their_sources() -> None:
    footer = "all rights reserved"  # shorter than a run of five words
    documents = [document(f"s{n % 3}", str(n), footer) for n in range(60)]
    found = {(pair.first, pair.second): pair for pair in shared_documents(documents)}
    assert set(found) == {("s0", "s1"), ("s0", "s2"), ("s1", "s2")}
    assert all(pair.first_documents == pair.second_documents == 20 for pair in found.values())
    assert all(len(pair.examples) == 1 for pair in found.values())


def test_texts_without_words_are_not_alike() -> None:
    assert shared_documents([document("ant", "a", "…"), document("bee", "b", "—")]) == []
