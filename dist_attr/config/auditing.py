"""What an audit reads out of a store, and how it sums that up."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from dist_attr.config.base import Settings
from dist_attr.config.evaluation import TruthName
from dist_attr.config.probing import ProbeConfig
from dist_attr.config.readout import ReadoutName
from dist_attr.config.training import PrecisionName

# What sums the scores up, and can be changed without reading anything out again.
OF_SHARES = {"truth", "resamples"}


class AuditConfig(Settings):
    """What `dist-attr audit` reads out of a store, and how it sums that up."""

    readout: ReadoutName = "linear"
    rank: int | None = Field(None, ge=1, description="directions of the store's basis; exact without")
    precision: PrecisionName = "fp32"
    tokens: bool = Field(False, description="scores of single tokens too")
    shapley: int = Field(
        0,
        ge=0,
        le=2**20,
        description="sets of sources, at most, that are removed for each query; 0 is no Shapley value",
    )
    probe: ProbeConfig | None = Field(None, description="in-context probing of every query; none without")
    part: int = Field(64, ge=1, le=100_000, description="queries that are read out and written together")
    truth: TruthName = Field("this run", description="whose measured fidelity the intervals cover")
    resamples: int = Field(1000, ge=100, le=100_000, description="of the bootstrap")
    seed: int = Field(0, ge=0, description="of the bootstrap, and of the sets of sources")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rank is not None and self.readout == "counterfactual":
            raise ValueError("a basis gives linear scores; leave out rank, or take another readout")
        if self.precision == "bf16" and self.readout != "linear":
            raise ValueError(f"the {self.readout} readout takes differences, which drown in bfloat16; take fp32")
        if self.shapley and (self.rank is not None or self.precision == "bf16"):
            raise ValueError("Shapley values need the sources' own tangents in fp32; leave out rank and bf16")
        if self.probe is not None and self.precision == "bf16":
            raise ValueError("probing takes differences, which drown in bfloat16; leave out probe, or take fp32")
        return self

    def decides_scores(self) -> dict[str, Any]:
        """Those of the settings that scores depend on, or the files they are written to."""
        return self.model_dump(mode="json", exclude=OF_SHARES)
