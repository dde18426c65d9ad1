"""Which parameters of a model are trained: all, some by name, or LoRA adapters beside frozen layers."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from dist_attr.config import LoraConfig, ModelConfig
from dist_attr.errors import ModelError

ADAPTER_FOLDER, WEIGHTS = "adapter", "adapter_model.safetensors"
# How peft spells, in a file, the name that a parameter has inside a model that it adapted.
_FILE_PREFIX, _INSIDE = "base_model.model.", ".default."


def choose_trainable(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Freeze everything that the configuration does not train, adding adapters where it asks for them.

    Raises:
        ModelError: a pattern or a target is in no name, or nothing is left to train.
    """
    if config.lora is not None:
        torch.manual_seed(seed)
        _add_adapters(model, config.lora)
        return
    names = [name for name, _ in model.named_parameters()]
    for key, patterns in (("include", config.include), ("exclude", config.exclude)):
        for pattern in patterns:
            if not any(re.search(pattern, name) for name in names):
                raise ModelError(f"model.{key}: {pattern!r} is in no parameter's name; there are {', '.join(names)}")
    for name, parameter in model.named_parameters():
        included = not config.include or any(re.search(pattern, name) for pattern in config.include)
        excluded = any(re.search(pattern, name) for pattern in config.exclude)
        parameter.requires_grad_(included and not excluded)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError("model.include and model.exclude leave no parameter to train")


def _add_adapters(model: nn.Module, config: LoraConfig) -> None:
    import peft

    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    _inject(
        model,
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=targets,
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
            fan_in_fan_out=any(type(part).__name__ == "Conv1D" for part in model.modules()),
        ),
    )


def _inject(model: nn.Module, settings: object) -> None:
    import peft

    try:
        peft.inject_adapter_in_model(settings, model)
    except ValueError as error:
        raise ModelError(f"model.lora: peft cannot adapt this model: {error}") from error


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' parameters by name; none without LoRA."""
    return {name: parameter for name, parameter in model.named_parameters() if _INSIDE in name and "lora_" in name}


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of the model without its adapters, under the names it had before it got them."""
    adapters = adapter_parameters(model)
    return {
        name.replace(".base_layer.", "."): value for name, value in model.state_dict().items() if name not in adapters
    }


def save_adapters(model: nn.Module, folder: Path) -> None:
    """Write the adapters, if any, as peft's own files."""
    if not (adapters := adapter_parameters(model)):
        return
    from safetensors.torch import save_file

    folder.mkdir()
    model.peft_config["default"].save_pretrained(str(folder))  # type: ignore[index, union-attr]
    tensors = {
        _FILE_PREFIX + name.replace(_INSIDE, "."): parameter.detach().to("cpu", torch.float32).contiguous()
        for name, parameter in adapters.items()
    }
    save_file(tensors, folder / WEIGHTS)


def load_adapters(model: nn.Module, folder: Path) -> None:
    """Add the adapters in a folder, if there is one. Raises ModelError when they do not fit the model."""
    if not folder.is_dir():
        return
    import peft
    from safetensors.torch import load_file

    _inject(model, peft.LoraConfig.from_pretrained(str(folder)))
    saved = load_file(folder / WEIGHTS)
    adapters = {_FILE_PREFIX + name.replace(_INSIDE, "."): value for name, value in adapter_parameters(model).items()}
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in adapters.items()}:
        raise ModelError(f"the adapters in {folder} do not fit the model beside them")
    with torch.no_grad():
        for name, parameter in adapters.items():
            parameter.copy_(saved[name])
