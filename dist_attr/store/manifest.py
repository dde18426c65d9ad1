"""The manifest: what a store holds and what it belongs to."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dist_attr.config import RunConfig, Settings, StoreConfig

FORMAT_VERSION: Literal[2] = 2
ATTRIBUTE = "dist_attr"
MOST_PARAMETERS = 2**40

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="a sha256")]
Extent = Annotated[int, Field(ge=0, le=MOST_PARAMETERS)]


class ModelIdentity(Settings):
    """Which model and tokenizer the tangents belong to."""

    type: str
    weights: Digest = Field(description="of the trained parameters")
    tokenizer: Digest


class Space(Settings):
    """The parameter space: how a tangent of length P is laid out, and its share of the model's parameters."""

    names: tuple[str, ...]
    shapes: tuple[tuple[Extent, ...], ...]
    coverage: float = Field(ge=0, le=1)

    @property
    def size(self) -> int:
        """P."""
        return sum(math.prod(shape) for shape in self.shapes)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.names) != len(self.shapes) or len(set(self.names)) != len(self.names):
            raise ValueError("a parameter space has one shape for each of its names, and no name twice")
        if not 0 < self.size <= MOST_PARAMETERS:
            raise ValueError(f"a parameter space has between 1 and {MOST_PARAMETERS} parameters, not {self.size}")
        return self


class Descent(Settings):
    """How the tangents came from a finished model: K steps at rate η on the loss with damping λ."""

    steps: int
    rate: float
    damping: float
    largest: float | None = Field(None, description="λmax, the largest curvature of the loss; none if not measured")
    smallest: float | None = Field(None, description="λmin, the smallest")


class Manifest(Settings):
    """The attributes of the store's root group, under the key `dist_attr`."""

    format_version: Literal[2] = FORMAT_VERSION
    identity: str = Field(description="unique to this store")
    created: str = Field(description="ISO 8601, UTC")
    complete: bool
    model: ModelIdentity | None = Field(description="none until the store is complete")
    space: Space
    encoding: StoreConfig
    sources: int = Field(ge=1, description="rows of the sources table")
    sources_checksum: Digest | None = Field(description="of the sources table; none until the store is complete")
    corpus: Digest = Field(description="of the documents")
    computes: Digest = Field(description="of the settings, corpus and tokenizer that decide what the tangents are")
    run: RunConfig
    descent: Descent | None = Field(None, description="none but for method: checkpoint")
    versions: dict[str, str] = Field(description="of the software the store was made with")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.complete and (self.model is None or self.sources_checksum is None):
            raise ValueError("a complete store names its model and the checksum of its sources table")
        return self
