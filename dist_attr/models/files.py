"""Models on disk and on object storage, in transformers' own format, and their fingerprints."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import fsspec
import torch
from torch import nn

from dist_attr.config import ModelConfig
from dist_attr.errors import ModelError
from dist_attr.models.build import build_model


def model_fingerprint(model: nn.Module) -> str:
    """sha256 over names, shapes and float32 values of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


def save_model(model: nn.Module, tokenizer: Any, url: str) -> None:
    """Model (safetensors) and tokenizer as a folder that transformers loads, at any fsspec URL."""
    filesystem, path = fsspec.core.url_to_fs(url)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)
        filesystem.makedirs(path, exist_ok=True)
        for file in sorted(Path(folder).iterdir()):
            filesystem.put_file(str(file), f"{path}/{file.name}")


def load_model(url: str) -> tuple[nn.Module, Any]:
    """The model and tokenizer that `save_model` wrote. Raises ModelError when they cannot be loaded."""
    from transformers import AutoTokenizer

    filesystem, path = fsspec.core.url_to_fs(url)
    with tempfile.TemporaryDirectory() as folder:
        try:
            for file in filesystem.find(path):
                filesystem.get_file(file, str(Path(folder) / Path(file).name))
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(f"no model and tokenizer at {url}: {error}") from error
        settings = ModelConfig(path=folder)
        model = build_model(settings, vocabulary=len(tokenizer), end_of_text=0, sequence_length=1, seed=0)
    return model, tokenizer
