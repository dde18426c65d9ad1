"""One run: every setting together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import fsspec
import yaml
from pydantic import Field, model_validator

from dist_attr.config.base import Settings
from dist_attr.config.corpus import CorpusConfig, TokenizerConfig
from dist_attr.config.model import ModelConfig
from dist_attr.config.simulation import FOR_CHECKPOINT, ClusterConfig, SimulationConfig
from dist_attr.config.store import StoreConfig
from dist_attr.config.training import TrainingConfig
from dist_attr.errors import ConfigError

# What of `training` a finished model and its documents still have: the rest says how a model is trained.
WITHOUT_TRAINING = {"sequence_length", "source_weights", "seed"}


class RunConfig(Settings):
    """One training run with its simulation, or one from a finished model. See docs/guide.md for commented examples."""

    corpus: CorpusConfig = Field(default_factory=lambda: CorpusConfig.model_validate({}))
    tokenizer: str | TokenizerConfig = Field("bytes", description="bytes, a path, or {train: {vocabulary: 2048}}")
    model: ModelConfig = Field(default_factory=lambda: ModelConfig.model_validate({}))
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    simulation: SimulationConfig = Field(default_factory=SimulationConfig)
    store: StoreConfig = Field(default_factory=StoreConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    output: str = Field("runs/demo", description="any fsspec URL; holds run.yaml, model/ and influence.zarr")

    @model_validator(mode="before")
    @classmethod
    def _tokenizer_of_the_model(cls, values: Any) -> Any:
        if isinstance(values, dict) and "tokenizer" not in values:
            model = values.get("model")
            path = model.get("path") if isinstance(model, dict) else getattr(model, "path", None)
            if path is not None:
                return {**values, "tokenizer": path}
        return values

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.simulation.method == "checkpoint":
            if self.model.path is None:
                raise ValueError(
                    "simulation.method: checkpoint starts from a finished model, and weights drawn at random are "
                    "none: name its folder as model.path"
                )
            if others := self.training.changed(but=WITHOUT_TRAINING):
                raise ValueError(
                    f"with simulation.method: checkpoint nothing is trained; leave out training.{', '.join(others)} "
                    f"(of training it knows {', '.join(sorted(WITHOUT_TRAINING))}, its own are in simulation.descent)"
                )
            return self
        if self.training.batch_size % (self.cluster.workers * self.training.accumulation_steps):
            raise ValueError(
                f"training.batch_size ({self.training.batch_size}) must be a multiple of cluster.workers "
                f"({self.cluster.workers}) times training.accumulation_steps ({self.training.accumulation_steps})"
            )
        if self.simulation.window is not None and self.simulation.window > self.training.steps:
            raise ValueError(
                f"simulation.window ({self.simulation.window}) is longer than training.steps ({self.training.steps})"
            )
        self._check_replicas()
        return self

    def _check_replicas(self) -> None:
        """No replica with a negative weight: it would be trained away from its source."""
        light = [name for name, weight in self.training.source_weights.items() if weight < self.simulation.epsilon]
        if light and self.simulation.method in ("auto", "trajectory"):
            raise ValueError(
                f"training.source_weights gives {', '.join(light)} a weight below simulation.epsilon "
                f"({self.simulation.epsilon:g}), and a replica would get a negative one; take simulation.method: "
                "tangent, a trajectory with a smaller epsilon, or none to train only"
            )

    @property
    def steps(self) -> int:
        """Steps of the run: of training, or of the descent from a finished model."""
        return self.training.steps if self.simulation.descent is None else self.simulation.descent.steps

    @property
    def drift_tolerance(self) -> float:
        """The largest drift allowed: what is set, or the default for the run's precision."""
        if self.simulation.drift_tolerance is not None:
            return self.simulation.drift_tolerance
        return 5e-2 if self.training.precision == "bf16" else 1e-3

    @classmethod
    def load(cls, url: str | Path) -> RunConfig:
        """Read a YAML file at any fsspec URL. Raises ConfigError naming every offending key."""
        try:
            with fsspec.open(str(url), "r", encoding="utf-8") as file:
                values = yaml.safe_load(file)
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the run configuration {url}: {error}") from error
        return cls.parse({} if values is None else values, where=str(url))

    def to_yaml(self) -> str:
        """The configuration with every default written out that means something; `load` reads it back unchanged."""
        values = self.model_dump(mode="json", exclude_none=True)
        if self.simulation.method == "checkpoint":
            for room, used in (("training", WITHOUT_TRAINING), ("simulation", FOR_CHECKPOINT)):
                values[room] = {name: value for name, value in values[room].items() if name in used}
        return yaml.safe_dump(values, sort_keys=False)
