"""The simulation and the cluster it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dist_attr.config.base import Settings

MethodName = Literal["auto", "trajectory", "tangent", "checkpoint", "none"]
FOR_CHECKPOINT = {"method", "descent"}


class DescentConfig(Settings):
    """How far and how fast `method: checkpoint` descends from the finished model."""

    steps: int = Field(40, ge=1, description="K, steps of gradient descent")
    rate: float | None = Field(None, gt=0, description="η, by default from the measured curvature: 1/(λmax + λ)")
    damping: float | None = Field(
        None, ge=0, description="λ, by default from the measured curvature: 0.01 λmax, and −λmin where that is negative"
    )
    epsilon: float = Field(0.01, gt=0, description="how much more and less of a source's weight its replicas have")
    batch_size: int | None = Field(None, ge=1, description="sequences in a step's batch; by default all, every step")
    replicas_per_pass: int = Field(8, ge=1, description="replicas, two per source, that an actor computes together")
    sequences_per_pass: int = Field(32, ge=1, description="sequences it computes them on together; both need memory")


class SimulationConfig(Settings):
    """How the influence of the sources is simulated: beside the training run, or from a finished model."""

    method: MethodName = Field(
        "auto", description="auto chooses trajectory or tangent by what either would cost; none only trains"
    )
    epsilon: float = Field(1.0, gt=0, description="trajectory: how much of a source's weight a replica goes without")
    central: bool = Field(False, description="trajectory: two replicas per source, with more and with less weight")
    horizon: int | None = Field(
        None, ge=1, description="tangent: steps for which a source is active after each appearance; by default always"
    )
    stride: int = Field(1, ge=1, description="tangent: the curvature of so many steps is applied once in so many")
    curvature_share: float = Field(1.0, gt=0, le=1, description="part of each batch that curvature is taken from")
    curvature_weight: float = Field(1.0, gt=0, le=1, description="what the curvature counts; less is steadier")
    window: int | None = Field(None, ge=1, description="simulate only the last so many steps; by default all")
    sources_per_pass: int | None = Field(
        None, ge=1, description="sources an actor computes together; by default measured before the first step"
    )
    memory_gib: float | None = Field(
        None, gt=0, description="what the simulation of one actor may take; by default what its device has free"
    )
    parking: str | None = Field(
        None, description="folder, on each machine, for states that do not fit; by default the system's temporary one"
    )
    descent: DescentConfig | None = Field(None, description="checkpoint: its own settings, by default their defaults")
    drift_tolerance: float | None = Field(
        None,
        gt=0,
        description="largest distance allowed between DeepSpeed's parameters and the simulation's, as a share of the "
        "way trained so far; by default 0.001, and 0.05 where DeepSpeed computes in bf16 and the simulation in float32",
    )
    check_every: int = Field(10, ge=1, description="steps between drift checks; the last step is always checked")

    @field_validator("parking")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if "://" in value or "::" in value:
            raise ValueError(f"{value} is no path; states are parked in a folder of each machine")
        return str(Path(value).absolute())  # actors may run in another directory

    @model_validator(mode="before")
    @classmethod
    def _default_descent(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("method") == "checkpoint" and values.get("descent") is None:
            return {**values, "descent": {}}
        return values

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        if self.method == "checkpoint":
            if others := self.changed(but=FOR_CHECKPOINT):
                raise ValueError(
                    f"{', '.join(others)}: method: checkpoint follows no training run, and has only the settings "
                    f"under descent ({', '.join(DescentConfig.model_fields)})"
                )
            return self
        if self.descent is not None:
            raise ValueError("descent belongs to method: checkpoint")
        if self.method == "none":  # so that the run of a simulation also serves to train with other weights
            return self
        if self.method != "tangent" and (self.horizon is not None or self.stride > 1):
            raise ValueError("horizon and stride belong to method: tangent")
        if self.method != "trajectory" and (self.epsilon != 1.0 or self.central):
            raise ValueError("epsilon and central belong to method: trajectory")
        return self


class ClusterConfig(Settings):
    """The Ray actors. With an environment variable RAY_ADDRESS they run on that cluster, else on this machine."""

    workers: int = Field(2, ge=1, description="actors; one GPU each when the cluster has that many")
    checkpoint_minutes: float = Field(5.0, ge=0, description="between checkpoints to continue from; 0 for none")
    max_failures: int = Field(3, ge=0, description="how often a run goes on from its checkpoint after losing a worker")
    wait_minutes: float = Field(
        10.0, gt=0, description="how long actors wait for free CPUs or GPUs, also for a node that replaces a lost one"
    )
