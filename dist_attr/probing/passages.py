"""The documents of a store as passages that fit into a prompt, and which of them are put there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dist_attr.config import CorpusConfig, ProbeConfig
from dist_attr.corpus import Document, Tokenizer, corpus_fingerprint, decode, encode, load_documents
from dist_attr.errors import CorpusError, QueryError
from dist_attr.probing.lexical import LexicalIndex
from dist_attr.readout import Query
from dist_attr.store import InfluenceStore


@dataclass(frozen=True)
class Passage:
    """What goes into a prompt: a document, or one window of a long one.

    Attributes:
        source: who is credited for it.
        document: the document's id.
        window: which one of it, from 0.
        windows: how many the document has.
        tokens: its token ids, at least one.
    """

    source: str
    document: str
    window: int
    windows: int
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.tokens:
            raise CorpusError(
                f"document {self.document!r} of source {self.source!r} has no tokens, so that it would change no "
                "prompt; take it out of the corpus, or use a tokenizer that knows its characters"
            )


class Passages:
    """All windows of the documents of a store's corpus.

    A document is cut into windows of `window` tokens each, the last of which may be shorter: together they are the
    document.

    Args:
        sources: names, in the order of what is chosen; documents of others are left aside.
        documents: of the corpus, at least one of each source.
        tokenizer: of the model.
        window: tokens.

    Attributes:
        sources: as given.
        window: as given.

    Raises:
        CorpusError: a document has no tokens, or a source no document.
    """

    def __init__(
        self, sources: Sequence[str], documents: Iterable[Document], tokenizer: Tokenizer, window: int
    ) -> None:
        self.sources, self.window = list(sources), window
        self._tokenizer = tokenizer
        wanted = set(sources)
        self._documents = [document for document in documents if document.source in wanted]
        self._tokens = [np.array(encode(tokenizer, document.text), np.int32) for document in self._documents]
        self._counts = np.array([max(1, -(-len(tokens) // window)) for tokens in self._tokens], np.int64)
        # Of each window the index of its document.
        self._document_of = np.repeat(np.arange(len(self._documents)), self._counts)
        self._first = np.cumsum(self._counts) - self._counts
        for number in np.flatnonzero([len(tokens) == 0 for tokens in self._tokens]):
            self._passage(int(self._first[number]))  # which says that it is empty
        numbers = {source: number for number, source in enumerate(self.sources)}
        source_of = np.array([numbers[document.source] for document in self._documents], np.int64)[self._document_of]
        order = np.argsort(source_of, kind="stable")
        starts = np.searchsorted(source_of[order], np.arange(1, len(numbers)))
        self._windows = dict(zip(self.sources, np.split(order, starts), strict=True))
        if bare := [source for source, windows in self._windows.items() if not len(windows)]:
            raise CorpusError(f"the corpus has no document of {', '.join(map(repr, bare))}")

    @classmethod
    def of(cls, store: InfluenceStore, tokenizer: Tokenizer, window: int, corpus: str | None = None) -> Passages:
        """The passages of a store's sources.

        Args:
            store: from `open_store`. Its documents are where they were when it was made.
            tokenizer: of the store's model.
            window: tokens.
            corpus: another place, any fsspec URL, of the very same documents.

        Raises:
            CorpusError: the documents are missing or cannot be used, or are not those that the store was made of.
        """
        return cls(store.sources, documents_of(store, corpus), tokenizer, window)

    def __len__(self) -> int:
        """How many passages there are."""
        return len(self._document_of)

    def __getitem__(self, number: int) -> Passage:
        """One of them, in the order of the corpus."""
        return self._passage(range(len(self))[number])

    def __iter__(self) -> Iterator[Passage]:
        """All of them, in the order of the corpus."""
        return map(self._passage, range(len(self)))

    def choose(self, query: Query, config: ProbeConfig, sources: Sequence[str] | None = None) -> list[Passage]:
        """The passages that a query is probed with, source by source in the order of `sources`.

        Of each source there are `config.documents`, fewer only where it has fewer windows: the best window of each of
        the documents most like the query, or a random window of each of some random documents, the same for every
        query. Further windows of the same documents follow only where a source has fewer documents.

        Args:
            query: its prompt and completion are what documents are compared with.
            config: how many and which.
            sources: only these, in this order; all by default.

        Raises:
            QueryError: there is no such source.
        """
        liked = self._index.scores(_text(query)) if config.choose == "bm25" else self._drawn(config.seed)
        chosen: list[Passage] = []
        for source in self.sources if sources is None else sources:
            if source not in self._windows:
                raise QueryError(f"there is no source {source!r}; the store has {', '.join(map(repr, self.sources))}")
            windows = self._windows[source]
            ranked = windows[np.argsort(-liked[windows], kind="stable")]
            best = np.sort(np.unique(self._document_of[ranked], return_index=True)[1])  # of each document
            order = np.concatenate([ranked[best], np.delete(ranked, best)])
            chosen += [self._passage(int(window)) for window in order[: config.documents]]
        return chosen

    def bm25(self, query: Query) -> NDArray[np.float64]:
        """The best BM25 score of any window of each source for a query's prompt and completion, (sources,)."""
        scores = self._index.scores(_text(query))
        return np.array([scores[self._windows[source]].max() for source in self.sources], np.float64)

    @cached_property
    def _index(self) -> LexicalIndex:
        return LexicalIndex(decode(self._tokenizer, passage.tokens) for passage in self)

    def _drawn(self, seed: int) -> NDArray[np.float64]:
        """Random preferences: of each document one window is above all that are not their document's first choice."""
        draw = np.random.default_rng(seed)
        liked = draw.random(len(self)) - 1
        last = np.cumsum(self._counts) - 1
        firsts = np.lexsort((liked, self._document_of))[last]
        liked[firsts] = draw.random(len(self._documents))
        return liked

    def _passage(self, number: int) -> Passage:
        index = int(self._document_of[number])
        document, window = self._documents[index], number - int(self._first[index])
        tokens = self._tokens[index][window * self.window : (window + 1) * self.window]
        return Passage(document.source, document.id, window, int(self._counts[index]), tuple(tokens.tolist()))


def _text(query: Query) -> str:
    return f"{query.prompt} {query.completion}"


def documents_of(store: InfluenceStore, corpus: str | None = None) -> list[Document]:
    """The very documents that a store was made of.

    Args:
        store: from `open_store`. Its documents are where they were when it was made.
        corpus: another place, any fsspec URL, of the very same documents.

    Raises:
        CorpusError: they are missing or cannot be used, or are not those that the store was made of.
    """
    config = store.manifest.run.corpus
    if corpus is not None:
        # Ids and sources are read from the fields that they were in.
        config = CorpusConfig(path=corpus, **config.model_dump(include={"text_field", "source_field", "id_field"}))
    place = config.path or f"the example {config.example}"
    expected = store.manifest.corpus
    hint = "name the place where they are now as the corpus"
    try:
        documents = load_documents(config)
    except CorpusError as error:
        raise CorpusError(
            f"{store.url} was made of documents with the fingerprint {expected[:12]}…, and those at {place} cannot "
            f"be used: {error}; {hint}"
        ) from error
    if (found := corpus_fingerprint(documents)) != expected:
        raise CorpusError(
            f"{store.url} was made of documents with the fingerprint {expected[:12]}…, but those at {place} have "
            f"{found[:12]}…: they were changed since, and would be credited for what they did not teach; {hint}"
        )
    return documents
