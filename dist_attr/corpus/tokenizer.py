"""Tokenizers: raw bytes, a byte-level BPE trained on the corpus, or any fast transformers tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

from dist_attr.config import TokenizerConfig
from dist_attr.errors import CorpusError

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(Protocol):
    """What is used of a transformers fast tokenizer; `len` is the number of its tokens."""

    eos_token_id: int
    backend_tokenizer: Any
    chat_template: Any

    def __len__(self) -> int: ...

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool = ...) -> list[int]:
        """The tokens of a text."""

    def decode(
        self, token_ids: Sequence[int], skip_special_tokens: bool = ..., *, clean_up_tokenization_spaces: bool = ...
    ) -> str:
        """The text of tokens."""

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, add_generation_prompt: bool, tokenize: Literal[False]
    ) -> str:
        """A conversation as the model was trained to read it."""

    def convert_ids_to_tokens(self, ids: int) -> str:
        """A token as the vocabulary spells it."""

    def save_pretrained(self, save_directory: str) -> Any:
        """Write the folder that transformers loads."""


def load_tokenizer(config: str | TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of a run.

    Args:
        config: "bytes" (256 bytes, token = value of the byte, and the end of text); the path of a tokenizer saved by
            transformers; or `{train: ...}`, a byte-level BPE that has fewer tokens than asked for when `texts` do not
            yield more. The first and the last decode to exactly the text that was encoded.
        texts: what a BPE is trained on; the same texts give the same tokenizer.

    Raises:
        CorpusError: there is no tokenizer at the path, or it cannot be used.
    """
    if isinstance(config, TokenizerConfig):
        return _trained_tokenizer(config.train.vocabulary, texts)
    return _byte_tokenizer() if config == "bytes" else _saved_tokenizer(config)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text, none added around it.

    A text that spells a special token is taken as the tokenizer has it: as plain text by those made here, so that no
    document can forge an end of text, and mostly as that special token by pretrained ones.
    """
    return tokenizer.encode(text, add_special_tokens=False, verbose=False)


def decode(tokenizer: Tokenizer, ids: Sequence[int], start: int = 0) -> str:
    """The text of the tokens from `start` on, as it follows the text of those before."""
    whole, before = (
        tokenizer.decode(some, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for some in (list(ids), list(ids[:start]))
    )
    if whole.startswith(before):
        return str(whole[len(before) :])
    # A character is cut in two at `start`.
    return str(tokenizer.decode(list(ids[start:]), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """The token that ends each document."""
    return tokenizer.eos_token_id


def token_strings(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """Each token by itself, for reading; a byte that is only part of a character is spelled like `<0xE2>`."""
    return [_token_string(tokenizer, int(token)) for token in ids]


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """sha256 of what the tokenizer does to a text; a saved and loaded tokenizer has the same."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # Left over from the last call, not part of what the tokenizer is.
    del state["truncation"], state["padding"]
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _byte_tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary = {character: byte for byte, character in bytes_to_unicode().items()}
    backend = Backend(models.BPE(vocab={**vocabulary, END_OF_TEXT: 256}, merges=[]))
    # Splitting into words changes no token where nothing is merged, and takes half of the time.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _finished(backend)


def _trained_tokenizer(vocabulary: int, texts: Iterable[str]) -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return _finished(backend)


def _finished(backend: Any) -> Tokenizer:
    from tokenizers import decoders
    from transformers import PreTrainedTokenizerFast

    backend.decoder = decoders.ByteLevel()
    tokenizer: Tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )
    return tokenizer


def _saved_tokenizer(path: str) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers passes on whatever the parsers of the files raise
        raise CorpusError(
            f"no tokenizer can be loaded from {path}: {error}; give a local folder that transformers' save_pretrained "
            "wrote, or the tokenizer `bytes` or `{train: {vocabulary: 2048}}`"
        ) from error
    if not tokenizer.is_fast:
        raise CorpusError(f"the tokenizer at {path} has no fast form (tokenizer.json); use one that has")
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        # transformers makes one up for a folder that holds only a model; it turns every text into no tokens at all.
        raise CorpusError(f"{path} holds a model but no tokenizer; save the tokenizer there, or give another one")
    if tokenizer.eos_token_id is None:
        raise CorpusError(f"the tokenizer at {path} has no end-of-text token; set its eos_token and save it again")
    loaded: Tokenizer = tokenizer
    return loaded


def _token_string(tokenizer: Tokenizer, token: int) -> str:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    piece = tokenizer.convert_ids_to_tokens(token)
    if piece.startswith("▁") and not text.startswith(" "):
        # SentencePiece drops the space of a text's first token, and here every token is the first.
        return f" {text}"
    if "\ufffd" not in text:
        return text
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    if not set(piece) <= set(byte_of):
        return text
    characters = bytes(byte_of[character] for character in piece).decode("utf-8", errors="surrogateescape")
    # That error handler turns a byte outside a whole character into a surrogate, U+DC00 plus the byte.
    return "".join(
        f"<0x{ord(character) - 0xDC00:02X}>" if "\udc80" <= character <= "\udcff" else character
        for character in characters
    )
