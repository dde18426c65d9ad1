"""Documents that different sources have in common, nearly word by word.

What two sources both hold, training cannot tell whose it was: their scores divide among them what the text did, by
nothing but the order of the documents. An audit therefore says which sources share documents.

Design decisions:
- A document is the set of its runs of five words, in lower case. Two are near-duplicates when they have at least 0.8 of
  these in common (Jaccard), by MinHash with 128 permutations: the estimate's standard error there is 0.035.
- Texts with the very same words are one entry of the index, so that what is in many documents costs no more.
- A short quotation in a long document is not found; what is shared must be most of both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pydantic import Field

from dist_attr.config import Settings
from dist_attr.corpus import Document

WORDS = 5  # in a run
SIMILAR = 0.8
PERMUTATIONS = 128
EXAMPLES = 3


class SharedExample(Settings):
    """Two documents, by their ids."""

    first: str
    second: str
    similarity: float = Field(description="estimated Jaccard, of runs of five words")


class SharedDocuments(Settings):
    """Near-duplicate documents of two sources."""

    first: str = Field(description="a source")
    second: str = Field(description="another source")
    first_documents: int = Field(description="of the first source, that the second has nearly alike")
    second_documents: int = Field(description="of the second, that the first has nearly alike")
    examples: tuple[SharedExample, ...]


def shared_documents(
    documents: Sequence[Document], progress: Callable[[int, int], None] = lambda *_: None
) -> list[SharedDocuments]:
    """Pairs of sources that have near-duplicate documents, those with the most first.

    Args:
        documents: of all sources.
        progress: called with how many texts are done, and of how many.
    """
    from datasketch import MinHash, MinHashLSH

    alike: dict[tuple[str, ...], list[Document]] = {}
    for document in documents:
        alike.setdefault(tuple(re.findall(r"\w+", document.text.lower())), []).append(document)
    texts = [(words, found) for words, found in alike.items() if words]
    index, sketches = MinHashLSH(threshold=SIMILAR, num_perm=PERMUTATIONS), []
    for number, (words, _) in enumerate(texts):
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([" ".join(words[i : i + WORDS]).encode() for i in range(max(1, len(words) - WORDS + 1))])
        index.insert(number, sketch)
        if number % 100 == 0 or number + 1 == len(texts):
            progress(number + 1, len(texts))
        sketches.append(sketch)
    pairs: dict[tuple[str, str], tuple[set[str], set[str], list[SharedExample]]] = {}
    for number, (_, own) in enumerate(texts):
        for other in sorted(index.query(sketches[number])):
            similarity = 1.0 if other == number else float(sketches[number].jaccard(sketches[other]))
            if other < number or similarity < SIMILAR:
                continue
            _add(pairs, own, texts[other][1], similarity)
    found = [
        SharedDocuments(
            first=first,
            second=second,
            first_documents=len(of_first),
            second_documents=len(of_second),
            examples=tuple(examples),
        )
        for (first, second), (of_first, of_second, examples) in pairs.items()
    ]
    return sorted(found, key=lambda pair: -max(pair.first_documents, pair.second_documents))


def _add(
    pairs: dict[tuple[str, str], tuple[set[str], set[str], list[SharedExample]]],
    some: Sequence[Document],
    others: Sequence[Document],
    similarity: float,
) -> None:
    """Count documents that are alike under their sources, in alphabetical order."""
    by_source = [_by_source(some), _by_source(others)]
    for one, its in by_source[0].items():
        for two, theirs in by_source[1].items():
            if one == two or (some is others and one > two):
                continue
            (first, mine), (second, yours) = sorted([(one, its), (two, theirs)])
            of_first, of_second, examples = pairs.setdefault((first, second), (set(), set(), []))
            of_first.update(mine)
            of_second.update(yours)
            if len(examples) < EXAMPLES:
                examples.append(SharedExample(first=mine[0], second=yours[0], similarity=similarity))


def _by_source(documents: Sequence[Document]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for document in documents:
        found.setdefault(document.source, []).append(document.id)
    return found
