"""Documents and tokenizer."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dist_attr.config.base import Settings

ExampleName = Literal["sotu"]


class CorpusConfig(Settings):
    """Where the documents come from and which of their fields say what."""

    path: str | None = Field(None, description="JSONL, JSONL.gz or Parquet at any fsspec URL")
    example: ExampleName | None = Field(None, description="built-in corpus: the State of the Union speeches")
    text_field: str = "text"
    source_field: str = "source"
    id_field: str = "id"

    @model_validator(mode="before")
    @classmethod
    def _default_example(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("path") is None and values.get("example") is None:
            values = {**values, "example": "sotu"}
        if isinstance(values, dict) and values.get("example") == "sotu":
            values = {"source_field": "president", **values}
        return values

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.path is not None and self.example is not None:
            raise ValueError("give either path or example, not both")
        if self.example == "sotu" and self.source_field not in ("president", "party"):
            raise ValueError(f"the sotu example has the sources 'president' and 'party', not {self.source_field!r}")
        return self


class TrainTokenizer(Settings):
    """A byte-level BPE trained on the corpus."""

    vocabulary: int = Field(2048, ge=257, description="number of tokens, the 256 bytes and the end-of-text included")


class TokenizerConfig(Settings):
    """`{train: ...}`; the other forms are a plain string: `bytes`, or a path that transformers can load."""

    train: TrainTokenizer
