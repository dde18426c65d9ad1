"""Models on disk and on object storage, in transformers' own format, and their fingerprints."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from fsspec.implementations.local import LocalFileSystem
from torch import nn

from dist_attr.config import ModelConfig
from dist_attr.errors import ModelError
from dist_attr.models.build import build_model
from dist_attr.models.trainable import ADAPTER_FOLDER, base_state, save_adapters
from dist_attr.store import Place
from dist_attr.store.places import clear_errors


def model_fingerprint(model: nn.Module) -> str:
    """sha256 over names, shapes and float32 values of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


@contextmanager
def upload_folder(url: str) -> Iterator[str]:
    """A temporary folder whose files go to an fsspec URL when the block is done.

    Raises:
        ModelError: there is no room for them on this machine.
        StoreError: the place cannot be written to.
    """
    filesystem, path = Place(url).files()
    with tempfile.TemporaryDirectory() as folder:
        with _temporary_room(url):
            yield folder
        for file in sorted(file for file in Path(folder).rglob("*") if file.is_file()):
            name = file.relative_to(folder)
            with clear_errors(url, making=True):
                if isinstance(filesystem, LocalFileSystem):  # elsewhere there are no folders; s3fs would make a bucket
                    filesystem.makedirs(f"{path}/{name.parent}", exist_ok=True)
                filesystem.put_file(str(file), f"{path}/{name}")


@contextmanager
def download_folder(url: str, options: Mapping[str, Any] | None = None, *, weights: bool = True) -> Iterator[str]:
    """The files at an fsspec URL, with its options, in a local folder; those with weights need not come along.

    Raises:
        ModelError: there are none, or there is no room for them on this machine.
        StoreError: the place cannot be reached.
    """
    filesystem, path = Place(url, options or {}).files()
    with clear_errors(url):
        files = filesystem.find(path)
    if not files:
        raise ModelError(f"there is no model at {url}")
    if isinstance(filesystem, LocalFileSystem):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            if not weights and file.endswith(".safetensors"):
                continue
            target = Path(folder) / PurePosixPath(file).relative_to(PurePosixPath(filesystem._strip_protocol(path)))
            target.parent.mkdir(parents=True, exist_ok=True)
            with _temporary_room(url), clear_errors(url):
                filesystem.get_file(file, str(target))
        yield folder


@contextmanager
def _temporary_room(url: str) -> Iterator[None]:
    """That the disk of temporary files is full, as a ModelError; each library has another exception for it."""
    try:
        yield
    except Exception as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise ModelError(
            f"no room for the model at {url} in {tempfile.gettempdir()} on {platform.node()}: make room there, or set "
            "TMPDIR to a folder with more of it"
        ) from error


def save_model(model: nn.Module, url: str) -> None:
    """Config and weights (safetensors) as a folder that transformers loads, at any fsspec URL.

    A model with adapters is saved without them, and they go to `adapter/` in that folder, where peft loads them.
    """
    with upload_folder(url) as folder:
        model.save_pretrained(folder, state_dict=base_state(model))  # type: ignore[operator]
        save_adapters(model, Path(folder) / ADAPTER_FOLDER)


def load_model(folder: str) -> nn.Module:
    """The model in a local folder. Raises ModelError when it cannot be loaded."""
    return build_model(ModelConfig(path=folder), vocabulary=0, end_of_text=0, sequence_length=1, seed=0)


def saved_context_length(folder: str) -> int:
    """Tokens that the model in a local folder can read at once; its weights are not read."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(folder, local_files_only=True).max_position_embeddings)
