"""Documents with their sources, their tokens, and the order in which a run trains on them.

Design decisions:
- The source is a property of every TOKEN, not of a row: rows mix documents, so nothing is lost to padding, and a
  weight reaches exactly the tokens of its source.
- Each document is followed by the end-of-text token, which belongs to the document's source.
- No token is dropped: rows overlap by one token, and a document longer than the context goes on in the next row.
- What cannot be used is refused with its file and line. No document is skipped or repaired silently, since a missing
  document would look like a source without influence.
- The batch order is a pure function of the seed: it does not depend on the number of workers, and the run without a
  source follows the same order as the run with it.
- A tokenizer is always a fast transformers tokenizer, whether made here or loaded, and saves next to the model.
"""

from dist_attr.corpus.chat import user_message
from dist_attr.corpus.documents import Document, load_documents
from dist_attr.corpus.packing import PackedCorpus, SourceSummary, corpus_fingerprint, pack
from dist_attr.corpus.rows import read_rows
from dist_attr.corpus.schedule import batch_schedule, share_of_batch
from dist_attr.corpus.tokenizer import (
    Tokenizer,
    decode,
    encode,
    end_of_text_id,
    load_tokenizer,
    token_strings,
    tokenizer_fingerprint,
)

__all__ = [
    "Document",
    "PackedCorpus",
    "SourceSummary",
    "Tokenizer",
    "batch_schedule",
    "corpus_fingerprint",
    "decode",
    "encode",
    "end_of_text_id",
    "load_documents",
    "load_tokenizer",
    "pack",
    "read_rows",
    "share_of_batch",
    "token_strings",
    "tokenizer_fingerprint",
    "user_message",
]
