"""The manifest: what a store holds and what it belongs to."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dist_attr.config import ReadoutName, RunConfig, Settings, StoreConfig

FORMAT_VERSION: Literal[2] = 2
ATTRIBUTE = "dist_attr"
CHECKSUM = "dist_attr_sha256"
MOST_PARAMETERS = 2**40
MOST_SOURCES = 2**31
MOST_STEPS = 2**62
MOST_DIMENSIONS = 16  # of one parameter

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
    shapes: tuple[Annotated[tuple[Extent, ...], Field(max_length=MOST_DIMENSIONS)], ...]
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


class MeasuredFidelity(Settings):
    """What retraining said of the scores of a store."""

    truth: Literal["this run", "any such run"] = Field(description="same seed, or the mean over fresh seeds")
    readout: ReadoutName
    dropped: int = Field(ge=1, description="sources that each retrained model goes without")
    retrained: int = Field(ge=1, description="models")
    queries: int = Field(ge=1)
    correlation: float = Field(
        ge=-1,
        le=1,
        description="Spearman's, predicted against true outputs, mean of the queries: over subsets (LDS), or over "
        "sources where one is dropped at a time",
    )
    interval: tuple[float, float] | None = Field(None, description="95 % of the correlation's bootstrap")
    slope: float | None = Field(None, description="true changes per predicted one; 1 is right")
    ceiling: float | None = Field(None, description="the correlation that the truth's own noise leaves to any method")


class Manifest(Settings):
    """The attributes of the store's root group, under the key `dist_attr`; beside it lies its checksum."""

    format_version: Literal[2] = FORMAT_VERSION
    identity: str = Field(description="unique to this store")
    created: str = Field(description="ISO 8601, UTC")
    complete: bool
    model: ModelIdentity | None = Field(description="none until the store is complete")
    space: Space
    encoding: StoreConfig
    sources: int = Field(ge=1, le=MOST_SOURCES, description="rows of the sources table")
    sources_checksum: Digest | None = Field(description="of the sources table; none until the store is complete")
    corpus: Digest = Field(description="of the documents")
    computes: Digest = Field(description="of the settings, corpus and tokenizer that decide what the tangents are")
    run: RunConfig
    descent: Descent | None = Field(None, description="none but for method: checkpoint")
    fidelity: tuple[MeasuredFidelity, ...] = Field((), description="as far as it was measured")
    versions: dict[str, str] = Field(description="of the software the store was made with")

    @field_validator("run", mode="before")
    @classmethod
    def _states_its_settings(cls, values: Any) -> Any:
        """A run is given DeepSpeed's settings as a file; its manifest has them, and names no file to be read."""
        training = values.get("training") if isinstance(values, dict) else None
        if isinstance(training, dict) and not isinstance(training.get("deepspeed", {}), dict):
            raise ValueError("training.deepspeed must be the settings themselves; no file is read for a manifest")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.complete and (self.model is None or self.sources_checksum is None):
            raise ValueError("a complete store names its model and the checksum of its sources table")
        if self.run.steps > MOST_STEPS:
            raise ValueError(f"a run has at most {MOST_STEPS} steps")
        return self

    def attributes(self) -> dict[str, Any]:
        """What is written."""
        values = self.model_dump(mode="json")
        return {ATTRIBUTE: values, CHECKSUM: checksum_of(values)}


def checksum_of(values: Any) -> str:
    """sha256 of JSON values, however they are spaced and whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
