"""From a model configuration to a transformers model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dist_attr.config import ModelConfig
from dist_attr.errors import ModelError
from dist_attr.models.causal import context_length
from dist_attr.models.trainable import ADAPTER_FOLDER, choose_trainable, load_adapters

# tests/laws runs every law on each of these.
SUPPORTED_TYPES = ("gpt2", "llama", "gpt_neox")


def build_model(
    config: ModelConfig, *, vocabulary: int, end_of_text: int, sequence_length: int, seed: int
) -> nn.Module:
    """A float32 causal LM in evaluation mode, without dropout.

    Args:
        config: a transformers config (weights drawn from `seed`) or a local path (weights loaded), and what is trained.
        vocabulary: number of tokens of the tokenizer.
        end_of_text: the tokenizer's end-of-text token.
        sequence_length: tokens of context in training; a model from scratch gets that many positions.
        seed: of the initial weights and adapters.

    Raises:
        ModelError: the type is not supported, a key is unknown, or the model does not fit tokenizer or context.
    """
    if config.path is not None:
        model = _from_path(config.path)
        load_adapters(model, adapters := Path(config.path) / ADAPTER_FOLDER)
        if adapters.is_dir() and config.lora is not None:
            raise ModelError(f"model.path: {config.path} has adapters already; new ones on top are not supported")
    else:
        assert config.config is not None
        model = _from_config(config.config, vocabulary, end_of_text, sequence_length, seed)
    _check(model, vocabulary, sequence_length)
    choose_trainable(model, config, seed)
    return model.eval()


def _from_config(settings: dict[str, Any], vocabulary: int, end_of_text: int, length: int, seed: int) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(settings)
    model_type = settings.pop("model_type")
    _check_type(model_type)
    defaults = AutoConfig.for_model(model_type)
    known = {*defaults.to_dict(), *defaults.attribute_map}
    if unknown := sorted(set(settings) - known):
        raise ModelError(f"model.config: {model_type} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    if asked := {key: settings[key] for key in settings if _is_dropout(key) and settings[key]}:
        raise ModelError(f"model.config: dropout is not supported, set {', '.join(asked)} to 0 or leave it out")
    dropout = {key: 0.0 for key in defaults.to_dict() if _is_dropout(key)}
    tokens = {"vocab_size": vocabulary, "bos_token_id": end_of_text, "eos_token_id": end_of_text}
    position_key = next(
        (
            key
            for key in ("max_position_embeddings", defaults.attribute_map.get("max_position_embeddings"))
            if key in settings
        ),
        "max_position_embeddings",
    )
    try:
        resolved = AutoConfig.for_model(model_type, **{**tokens, position_key: length, **dropout, **settings})
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(resolved, attn_implementation="eager")  # type: ignore[no-any-return]
    except Exception as error:  # whatever the code of each model type raises for settings that do not fit
        raise ModelError(f"model.config: transformers cannot build this {model_type}: {error}") from error


def _from_path(path: str) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    # Its bar for reading a file from this disk would tear up our own.
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        _check_type(config.model_type)
        for key in config.to_dict():
            if _is_dropout(key):
                setattr(config, key, 0.0)
        return AutoModelForCausalLM.from_pretrained(  # type: ignore[no-any-return]
            path, config=config, local_files_only=True, dtype=torch.float32, attn_implementation="eager"
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"model.path: transformers cannot load a causal LM from {path}: {error}") from error


def _is_dropout(key: str) -> bool:
    return "dropout" in key or "pdrop" in key


def _check_type(model_type: str) -> None:
    if model_type not in SUPPORTED_TYPES:
        raise ModelError(
            f"model type {model_type!r} is not supported; its derivatives are not tested here. "
            f"Supported: {', '.join(SUPPORTED_TYPES)}"
        )


def _check(model: nn.Module, vocabulary: int, sequence_length: int) -> None:
    if (positions := context_length(model)) < sequence_length:
        raise ModelError(
            f"training.sequence_length is {sequence_length}, but the model has {positions} positions; "
            "shorten the sequences or enlarge the model's context"
        )
    if (size := int(model.config.vocab_size)) < vocabulary:  # type: ignore[union-attr, arg-type]
        raise ModelError(f"the tokenizer has {vocabulary} tokens, but the model only {size}; use the model's tokenizer")
    if active := [name for name, part in model.named_modules() if isinstance(part, nn.Dropout) and part.p > 0]:
        raise ModelError(f"dropout is not supported, but {', '.join(active)} has some")
