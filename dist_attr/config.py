"""Every setting of a run, validated once at the edge.

Design decisions:
- Frozen pydantic models; an unknown key is an error, never ignored.
- Each setting has a default that works; `RunConfig()` without arguments is a complete run on the built-in example.
- What is resolved here (the tokenizer that goes with a model path) is written to `run.yaml`, so that a finished run
  states everything it was made with and runs again.
- A leaf: no other room parses input, and this one imports none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import fsspec
import yaml
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dist_attr.errors import ConfigError

ExampleName = Literal["sotu"]
OptimizerName = Literal["adamw", "sgd"]
ScheduleName = Literal["constant", "linear", "cosine"]
MethodName = Literal["trajectory", "tangent", "none"]
ReadoutName = Literal["linear", "counterfactual"]


def absolute_url(url: str) -> str:
    """A local path made absolute, since actors may run in another directory; any other URL as it is."""
    filesystem, path = fsspec.core.url_to_fs(url)
    return str(path) if isinstance(filesystem, LocalFileSystem) else url


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


class ModelConfig(Settings):
    """A transformers causal language model: from a config, from scratch, or the weights at a path."""

    config: dict[str, Any] | None = None
    path: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_config(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("config") is None and values.get("path") is None:
            return {**values, "config": {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4}}
        return values

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.config is not None and self.path is not None:
            raise ValueError("give either config or path, not both")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs a model_type, for example {model_type: gpt2, n_layer: 2}")
        return self


class TrainingConfig(Settings):
    """The training run that is simulated. Learning rates are per step, weight decay is decoupled for AdamW."""

    steps: int = Field(150, ge=1)
    batch_size: int = Field(16, ge=1, description="sequences in the global batch")
    sequence_length: int = Field(64, ge=2, description="tokens of context")
    optimizer: OptimizerName = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    schedule: ScheduleName = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    gradient_clipping: float = Field(1.0, ge=0, description="largest global norm of the gradient; 0 for none")
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, ge=0)
    eps_root: float = Field(
        1e-8, ge=0, description="added under AdamW's square root, in the run and in the simulation; 0 is torch's AdamW"
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="of SGD")
    seed: int = Field(0, ge=0, description="of the initial weights and the batch order")
    source_weights: dict[str, float] = Field(default_factory=dict, description="weights other than 1; 0 removes")
    zero_stage: Literal[0, 1] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be smaller than steps ({self.steps})")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        if self.optimizer == "adamw" and self.momentum:
            raise ValueError("momentum belongs to sgd; adamw has betas")
        if self.optimizer == "adamw" and self.eps == 0 and self.eps_root == 0:
            raise ValueError("adamw needs eps or eps_root above 0")
        return self


class SimulationConfig(Settings):
    """How the influence of the sources is simulated beside the training run."""

    method: MethodName = "trajectory"
    epsilon: float = Field(1.0, gt=0, description="trajectory: how much of a source's weight a replica goes without")
    sources_per_pass: int = Field(8, ge=1, description="sources an actor computes together; more needs more memory")
    drift_tolerance: float = Field(
        1e-3, gt=0, description="largest relative distance allowed between DeepSpeed's parameters and the simulation's"
    )
    check_every: int = Field(10, ge=1, description="steps between drift checks; the last step is always checked")


class ClusterConfig(Settings):
    """The Ray actors. With an environment variable RAY_ADDRESS they run on that cluster, else on this machine."""

    workers: int = Field(2, ge=1, description="actors; one GPU each when the cluster has that many")


class RunConfig(Settings):
    """One training run with its simulation. See docs/guide.md for a commented example."""

    corpus: CorpusConfig = Field(default_factory=lambda: CorpusConfig.model_validate({}))
    tokenizer: str | TokenizerConfig = Field("bytes", description="bytes, a path, or {train: {vocabulary: 2048}}")
    model: ModelConfig = Field(default_factory=lambda: ModelConfig.model_validate({}))
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    simulation: SimulationConfig = Field(default_factory=SimulationConfig)
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
        if self.training.batch_size % self.cluster.workers:
            raise ValueError(
                f"training.batch_size ({self.training.batch_size}) must be a multiple of "
                f"cluster.workers ({self.cluster.workers})"
            )
        return self

    @classmethod
    def load(cls, url: str | Path) -> RunConfig:
        """Read a YAML file at any fsspec URL. Raises ConfigError naming every offending key."""
        try:
            with fsspec.open(str(url), "r", encoding="utf-8") as file:
                values = yaml.safe_load(file)
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the run configuration {url}: {error}") from error
        return cls.parse({} if values is None else values, where=str(url))

    @classmethod
    def parse(cls, values: Any, where: str = "run configuration") -> RunConfig:
        """Validate a mapping; like `model_validate`, but the error is one a user can read."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = [
                f"  {'.'.join(str(part) for part in item['loc']) or '(top level)'}: {item['msg']}"
                for item in error.errors()
            ]
            raise ConfigError(f"{where} is not valid:\n" + "\n".join(problems)) from error

    def to_yaml(self) -> str:
        """The configuration with every default written out; `load` reads it back unchanged."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)
