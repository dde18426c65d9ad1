"""Checkpoints of a run and of the simulation beside it, at any fsspec URL.

Design decisions:
- A folder per step: the run's state, each actor's own unperturbed state, each source's. Any number of actors can
  continue from it; the same number does so bit for bit.
- `latest.json`, written last and atomically, says which folder counts, and the sha256 of every file in it. Until then
  the checkpoint before it counts.
- It also says what the run is: another run's checkpoint is neither continued nor thrown away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from dist_attr.config import RunConfig, Settings, SimulationConfig
from dist_attr.errors import ConfigError, SimulationError, StoreError
from dist_attr.influence import SourceState, TrainState
from dist_attr.store import Descent, Place
from dist_attr.store.places import clear_errors

# They may change when a run is continued: where and how fast it runs, not what it computes.
FREE = {"output"} | {
    f"simulation.{key}"
    for key in (
        "sources_per_pass",
        "descent.replicas_per_pass",
        "descent.sequences_per_pass",
        "memory_gib",
        "parking",
        "drift_tolerance",
        "check_every",
    )
}


class Checkpoint(Settings):
    """The content of latest.json."""

    step: int = Field(ge=1, description="steps done")
    workers: int
    folder: str = Field(description="name, beside latest.json")
    files: dict[str, str] = Field(description="sha256 by name")
    identity: dict[str, Any] = Field(description="what the run computes, setting by setting")
    initial_model: str = Field(description="fingerprint")
    simulation: SimulationConfig = Field(description="as it was settled: what auto chose, the measured size of a pass")
    descent: Descent | None = Field(None, description="of a run without training, as agreed on at its beginning")


def identity(run: RunConfig, corpus: str, tokenizer: str) -> dict[str, Any]:
    """What a run computes: every setting that matters, and the fingerprints of its documents and tokenizer."""
    settings = _flat(run.model_dump(mode="json", exclude={"cluster"}))
    kept = {key: value for key, value in settings if key not in FREE}
    return {**kept, "the documents": corpus, "the tokenizer": tokenizer}


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class Checkpoints:
    """The checkpoints in the output folder of a run.

    With `discard`, those that are there when it begins do not count, and are removed by `discard_others`.
    """

    def __init__(self, output: str, *, discard: bool = False) -> None:
        self.url = f"{output}/checkpoint"
        self._discard = discard
        self._place = Place(self.url)
        self._files, self._path = self._place.files()

    def latest(self) -> Checkpoint | None:
        """The checkpoint that counts, if there is one. Raises SimulationError when it is damaged."""
        if self._discard:
            return None
        try:
            with clear_errors(self.url):
                text = self._files.cat_file(f"{self._path}/latest.json")
        except FileNotFoundError:
            return None
        try:
            return Checkpoint.model_validate_json(text)
        except ValidationError as error:
            raise SimulationError(f"{self.url}/latest.json cannot be read, say --overwrite: {error}") from error

    @staticmethod
    def folder(step: int) -> str:
        """Name of the folder that the files of a step go to."""
        return f"step-{step:08d}"

    def finish(self, checkpoint: Checkpoint) -> None:
        """Let a checkpoint whose files are all written count, and remove those before it."""
        path, text = f"{self._path}/latest.json", checkpoint.model_dump_json(indent=2)
        with clear_errors(self.url, making=True):
            if self._place.local is not None:
                self._files.pipe_file(f"{path}.new", text.encode())
                self._files.mv(f"{path}.new", path)
            else:
                self._files.pipe_file(path, text.encode())
            for entry in self._files.ls(self._path, detail=False):
                name = entry.rstrip("/").rpartition("/")[2]
                if name.startswith("step-") and name != checkpoint.folder:
                    self._files.rm(entry, recursive=True)

    def discard_others(self) -> None:
        """Remove the checkpoints of an earlier run that is to be replaced."""
        if self._discard:
            self.remove()
            self._discard = False

    def remove(self) -> None:
        """Delete all of them."""
        with clear_errors(self.url):
            if self._files.exists(self._path):
                self._files.rm(self._path, recursive=True)


def check_same_run(checkpoint: Checkpoint | None, expected: dict[str, Any], output: str) -> None:
    """Raises ConfigError, naming what differs, when there is a checkpoint and it is another run's."""
    if checkpoint is None:
        return
    keys = sorted({*checkpoint.identity, *expected})
    different = [key for key in keys if checkpoint.identity.get(key) != expected.get(key)]
    if different:
        raise ConfigError(
            f"output {output} holds an interrupted run at step {checkpoint.step} that differs in "
            f"{', '.join(different)}; continue it with the same settings, choose another place, or say --overwrite"
        )


def write_state(url: str, name: str, source: SourceState) -> tuple[str, str]:
    """Write a state of any shape into the folder at a URL; returns the file's name and its sha256."""
    from safetensors.torch import save

    tensors = {"theta": source.state.theta, "last_seen": torch.tensor(source.last_seen)}
    tensors.update({f"slot{number}": slot for number, slot in enumerate(source.state.slots)})
    data = save({key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()})
    file = f"{name}.safetensors"
    place = Place(url)
    files, path = place.files()
    try:
        with clear_errors(url, making=True):
            if place.local is not None:  # elsewhere there are no folders, and a missing bucket is not for us to make
                files.makedirs(path, exist_ok=True)
            files.pipe_file(f"{path}/{file}", data)
    except StoreError as error:
        raise SimulationError(
            f"cannot write the checkpoint {url}/{file}: {error}. The checkpoint before it still counts: make room or "
            "mend the access, and start the run again with the same settings"
        ) from error
    return file, hashlib.sha256(data).hexdigest()


def read_state(url: str, checkpoint: Checkpoint, name: str) -> SourceState:
    """Read a state of a checkpoint among those at a URL. Raises SimulationError when it is not what was written."""
    from safetensors.torch import load

    file = f"{name}.safetensors"
    files, path = Place(f"{url}/{checkpoint.folder}/{file}").files()
    try:
        with clear_errors(url):
            data = files.cat_file(path)
    except FileNotFoundError as error:
        raise SimulationError(f"the checkpoint at {url} lacks {checkpoint.folder}/{file}; say --overwrite") from error
    if hashlib.sha256(data).hexdigest() != checkpoint.files.get(file):
        raise SimulationError(
            f"the checkpoint at {url} is damaged: {checkpoint.folder}/{file} changed; say --overwrite"
        )
    tensors: dict[str, Tensor] = load(data)
    slots = tuple(tensors[f"slot{number}"] for number in range(len(tensors) - 2))
    return SourceState(TrainState(tensors["theta"], slots), int(tensors["last_seen"]))
