"""How the scores of a finished run are judged."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from dist_attr.config.base import Settings

ProtocolName = Literal["lds", "leave-source-out", "tail-patch"]
TruthName = Literal["this run", "any such run"]

FEWEST_RUNS = 4  # that a noise ceiling can be taken from
SUBSETS = 40  # unless there are fewer
# What means something to one protocol only.
OF_PROTOCOL: dict[str, tuple[ProtocolName, ...]] = {
    "drop": ("lds",),
    "subsets": ("lds", "leave-source-out"),
    "truth": ("lds", "leave-source-out"),
    "runs": ("lds", "leave-source-out"),
    "top": ("tail-patch",),
}


class EvaluationConfig(Settings):
    """What `dist-attr evaluate` compares the scores with."""

    protocol: ProtocolName = "lds"
    truth: TruthName = Field("this run", description="retrain with the run's own seed, or with fresh ones")
    runs: int = Field(FEWEST_RUNS, ge=1, description="fresh seeds, of initial weights and batch order; any such run")
    drop: float = Field(2, gt=0, description="sources that a subset goes without; below 1, the share of them; lds")
    subsets: int | None = Field(
        None,
        ge=3,
        description=f"lds: by default {SUBSETS}, or all there are; leave-source-out: of so many sources",
    )
    top: int = Field(3, ge=1, description="sources taken from either end of a query's ranking; tail-patch")
    count: int = Field(32, ge=1, description="queries that are drawn from the documents")
    seed: int = Field(0, ge=0, description="of what is drawn: subsets, queries, and the bootstrap of the intervals")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, protocols in OF_PROTOCOL.items():
            if name in self.model_fields_set and self.protocol not in protocols:
                raise ValueError(f"{name} belongs to {' and '.join(protocols)}; leave it out with {self.protocol}")
        if self.truth == "this run" and "runs" in self.model_fields_set:
            raise ValueError("runs belongs to the truth of any such run; this run is one")
        if self.runs < FEWEST_RUNS:
            raise ValueError(
                f"the truth of any such run needs {FEWEST_RUNS} runs or more, not {self.runs}: with fewer there is no "
                "telling how much of the truth is noise"
            )
        if self.drop > 1 and self.drop != int(self.drop):
            raise ValueError(f"drop is a number of sources, or a share of them below 1, not {self.drop:g}")
        return self

    def dropped_of(self, sources: int) -> int:
        """How many of so many sources a retrained model goes without."""
        if self.protocol == "leave-source-out":
            return 1
        return max(1, math.floor(self.drop * sources + 0.5)) if self.drop < 1 else int(self.drop)
