"""The model, and which of its parameters are trained."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dist_attr.config.base import Settings, check_pattern


class LoraConfig(Settings):
    """Low-rank adapters, made by peft without dropout; everything else is frozen."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0, description="the adapters' output is scaled by alpha / rank")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="ends of the names of the layers that get one, as in [q_proj, v_proj]"
    )


class ModelConfig(Settings):
    """A transformers causal language model: from a config, from scratch, or the weights at a path."""

    config: dict[str, Any] | None = None
    path: str | None = None
    include: tuple[str, ...] = Field(
        (), description="regular expressions; only parameters whose name one is found in are trained, by default all"
    )
    exclude: tuple[str, ...] = Field((), description="regular expressions; such parameters stay frozen")
    lora: LoraConfig | None = None

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
        if self.lora is not None and (self.include or self.exclude):
            raise ValueError("with lora exactly the adapters are trained; choose layers by lora.targets")
        for pattern in (*self.include, *self.exclude):
            check_pattern("include or exclude", pattern)
        return self
