"""The manifest: what a store holds and what it belongs to."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from dist_attr.config import RunConfig, Settings

FORMAT_VERSION: Literal[1] = 1
ATTRIBUTE = "dist_attr"


class ModelIdentity(Settings):
    """Which model and tokenizer the tangents belong to."""

    type: str
    weights: str = Field(description="sha256 of the trained parameters")
    tokenizer: str = Field(description="sha256 of the tokenizer")


class Space(Settings):
    """The parameter space: how a tangent of length P is laid out, and its share of the model's parameters."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    coverage: float = Field(ge=0, le=1)

    @property
    def size(self) -> int:
        """P."""
        return sum(math.prod(shape) for shape in self.shapes)


class SourceRecord(Settings):
    """One row of the sources table."""

    name: str
    documents: int
    tokens: int = Field(description="in the corpus")
    trained_tokens: int = Field(description="targets of this source in the run's steps, repeats counted")
    first_step: int | None = Field(description="that saw the source; none if the run never did")
    last_step: int | None
    examples: tuple[str, ...] = Field(description="a few document ids")
    failed: str | None = Field(None, description="why the source has no tangent; none if it has one")


class Descent(Settings):
    """How the tangents came from a finished model: K steps at rate η on the loss with damping λ."""

    steps: int
    rate: float
    damping: float
    largest: float | None = Field(None, description="λmax, the largest curvature of the loss; none if not measured")
    smallest: float | None = Field(None, description="λmin, the smallest")


class Manifest(Settings):
    """The attributes of the store's root group, under the key `dist_attr`."""

    format_version: Literal[1] = FORMAT_VERSION
    identity: str = Field(description="unique to this store")
    created: str = Field(description="ISO 8601, UTC")
    complete: bool
    model: ModelIdentity | None = Field(description="none until the store is complete")
    space: Space
    sources: tuple[SourceRecord, ...]
    corpus: str = Field(description="sha256 of the documents")
    run: RunConfig
    descent: Descent | None = Field(None, description="none but for method: checkpoint")
    versions: dict[str, str] = Field(description="of the software the store was made with")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.complete and self.model is None:
            raise ValueError("a complete store names its model")
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError("two sources have the same name")
        return self
