"""BM25: which texts share words with a query, as a search engine would say it."""

from __future__ import annotations

from collections.abc import Iterable

import bm25s
import numpy as np
from numpy.typing import NDArray

WORD = r"(?u)\b\w+\b"  # of one letter too


class LexicalIndex:
    """An index of texts, with the usual parameters (Lucene's form, k1 = 1.5, b = 0.75).

    Words are compared in lower case, without a stemmer and without a list of stop words: both belong to one language,
    and what is in most texts weighs little anyway.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._index = bm25s.BM25(backend="numpy")
        self._index.index(_words(list(texts)), show_progress=False)

    def scores(self, query: str) -> NDArray[np.float32]:
        """BM25 of each text, (texts,); 0 where no word is shared."""
        known = self._index.get_tokens_ids(_words([query])[0])
        found: NDArray[np.float32] = self._index.get_scores_from_ids(known)
        return found


def _words(texts: list[str]) -> list[list[str]]:
    words: list[list[str]] = bm25s.tokenize(
        texts, token_pattern=WORD, stopwords=[], return_ids=False, show_progress=False
    )
    return words
