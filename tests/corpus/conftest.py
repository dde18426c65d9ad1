"""Corpus files and tokenizers that the tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_attr.config import TokenizerConfig, TrainTokenizer
from dist_attr.corpus import Tokenizer, load_tokenizer

ROWS: list[dict[str, Any]] = [
    {"id": "a1", "text": "The lamp is lit.", "source": "almanac", "year": 1901},
    {"id": "b1", "text": "Naïve cafés — 漢字 \u2028 too.", "source": "bulletin", "year": 1902},
    {"id": "a2", "text": "The lamp is out.", "source": "almanac", "year": 1903},
]
TEXTS = ["the lamp is lit and the lamp is out " * 20, "Ünïcödé, too — 漢字"]


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[list[Any]], str]:
    """Writes rows to a JSONL file (a string is written as it is) and gives its path."""

    def write(rows: list[Any]) -> str:
        path = tmp_path / "corpus.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return load_tokenizer("bytes", [])


@pytest.fixture(scope="session")
def trained_tokenizer() -> Tokenizer:
    return load_tokenizer(TokenizerConfig(train=TrainTokenizer(vocabulary=280)), TEXTS)


@pytest.fixture(params=["byte_tokenizer", "trained_tokenizer"])
def own_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each tokenizer that is made here."""
    tokenizer: Tokenizer = request.getfixturevalue(request.param)
    return tokenizer
