"""Documents packed into rows of equal length, with the source of every token."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dist_attr.corpus.documents import Document
from dist_attr.corpus.tokenizer import Tokenizer, encode, end_of_text_id

EXAMPLES = 3


@dataclass(frozen=True)
class SourceSummary:
    """What the corpus holds of a source. `tokens` counts the end-of-text tokens; `examples` are document ids."""

    name: str
    documents: int
    tokens: int
    examples: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PackedCorpus:
    """The training data as arrays.

    Attributes:
        tokens: (sequences, length + 1) int32; `tokens[:, :-1]` are inputs, `tokens[:, 1:]` their targets.
        token_sources: (sequences, length + 1) int32, index into `sources` of each token; -1 for padding.
        sources: in the order in which they first appear in the documents.
        fingerprint: `corpus_fingerprint` of the documents.
    """

    tokens: NDArray[np.int32]
    token_sources: NDArray[np.int32]
    sources: tuple[SourceSummary, ...]
    fingerprint: str


def pack(documents: Sequence[Document], tokenizer: Tokenizer, sequence_length: int) -> PackedCorpus:
    """Join the documents, in their order, into one stream of tokens and cut it into rows.

    Each document is followed by the end-of-text token, which has the document's source. A row overlaps the next by one
    token, so that every token of the stream but the very first is a target exactly once. Nothing is cut off: a
    document longer than a row goes on in the next. The last row is padded on the right with end-of-text tokens.

    Args:
        documents: at least one.
        tokenizer: any from `load_tokenizer`.
        sequence_length: tokens of context, a row's inputs.
    """
    ids: dict[str, list[str]] = {}
    for document in documents:
        ids.setdefault(document.source, []).append(document.id)
    index = {name: number for number, name in enumerate(ids)}
    end = end_of_text_id(tokenizer)
    pieces = [np.array([*encode(tokenizer, document.text), end], np.int32) for document in documents]
    document_sources = np.array([index[document.source] for document in documents], np.int32)
    stream = np.concatenate(pieces)
    stream_sources = np.repeat(document_sources, [len(piece) for piece in pieces])
    counts = np.bincount(stream_sources)
    return PackedCorpus(
        tokens=_rows(stream, sequence_length, padding=end),
        token_sources=_rows(stream_sources, sequence_length, padding=-1),
        sources=tuple(
            SourceSummary(name, len(own), int(counts[index[name]]), tuple(own[:EXAMPLES])) for name, own in ids.items()
        ),
        fingerprint=corpus_fingerprint(documents),
    )


def corpus_fingerprint(documents: Sequence[Document]) -> str:
    """sha256 over the ids, sources and texts of the documents, in their order."""
    digest = hashlib.sha256()
    for document in documents:
        for field in (document.id, document.source, document.text):
            data = field.encode()
            # The length marks where a field ends: a character moved to the next field is another corpus.
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
    return digest.hexdigest()


def _rows(stream: NDArray[np.int32], length: int, padding: int) -> NDArray[np.int32]:
    missing = -(len(stream) - 1) % length
    padded = np.pad(stream, (0, missing), constant_values=padding)
    return sliding_window_view(padded, length + 1)[::length].copy()
