"""What travels with a command to a cluster: the files it reads here, under the names it has for them.

Exactly what the command and its run file name is sent, so that nothing else of a folder (keys, other data) leaves the
machine, and nothing is missing because a `.gitignore` says so. What a command writes, or continues, has to lie where
the cluster still has it after the job: a path of a node would be gone with the job's folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dist_attr.config import RunConfig
from dist_attr.errors import ConfigError

# Parameters of the commands that are paths or URLs: what is only read, and what has to last.
READ = ("run", "queries", "corpus")
LASTING = ("store", "stores", "target", "out", "events")

LARGEST = 500 * 2**20  # bytes; a little below what Ray keeps for a job


@dataclass(frozen=True)
class _Named:
    """A path or URL, and who names it."""

    where: str
    url: str
    lasting: bool

    @property
    def local(self) -> bool:
        """Whether it is a path rather than a URL of some storage."""
        return "://" not in self.url or self.url.startswith("file://")

    @property
    def path(self) -> Path:
        """As a path of this machine."""
        return Path(self.url.removeprefix("file://"))


def pack(parameters: Mapping[str, Any], shared: Sequence[Path], folder: Path) -> list[Path]:
    """Copy what a command reads below the working directory into a folder.

    Args:
        parameters: the command's parameters by name.
        shared: folders that all nodes of the cluster have under the same absolute path.
        folder: an empty one.

    Returns:
        What was copied, relative to the working directory.

    Raises:
        ConfigError: a path that the cluster cannot see, a file that is not there, too much to send, or a run file that
            is not valid; everything that is wrong is named.
    """
    here = Path.cwd()
    problems: list[str] = []
    packed: dict[Path, None] = {}
    for named in _named(parameters):
        if not named.local or _below(named.path, shared):
            continue
        if named.lasting:
            problems.append(
                f"{named.where} is {named.url}, a path of one machine, and would be gone with the job: take object "
                "storage (s3://...), or an absolute path in a folder that all nodes have, and name that with --shared"
            )
        elif not named.path.exists():
            problems.append(f"{named.where} is {named.url}, and that is not there")
        elif named.path.is_absolute() or not (path := _plain(named.path)).is_relative_to(here):
            problems.append(
                f"{named.where} is {named.url}; only what lies below this folder ({here}) and is named relative to it "
                "is sent to the cluster. Move it here, put it on object storage, or, if all nodes have it, name its "
                "folder with --shared"
            )
        else:
            packed[path.relative_to(here)] = None
    size = sum(file.stat().st_size for path in packed for file in _files(path))
    if size > LARGEST:
        problems.append(
            f"{', '.join(map(str, packed))} together have {size / 2**20:.0f} MiB, and a job takes at most "
            f"{LARGEST / 2**20:.0f}; put the large ones on object storage and name their URLs"
        )
    if problems:
        raise ConfigError("the cluster cannot run this:\n" + "\n".join(f"  {problem}" for problem in problems))
    for path in packed:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, folder / path, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, folder / path)
    return list(packed)


def _named(parameters: Mapping[str, Any]) -> Iterator[_Named]:
    for name, value in parameters.items():
        if name in (*READ, *LASTING) and value is not None:
            for one in value if isinstance(value, list | tuple) else [value]:
                yield _Named(name, str(one), name in LASTING)
    if (run := parameters.get("run")) is not None:
        yield from _named_in(str(run))


def _named_in(run: str) -> Iterator[_Named]:
    config = RunConfig.load(run)
    if config.corpus.path is not None:
        yield _Named(f"corpus.path of {run}", config.corpus.path, lasting=False)
    if config.model.path is not None:
        yield _Named(f"model.path of {run}", config.model.path, lasting=False)
    if isinstance(config.tokenizer, str) and config.tokenizer != "bytes":
        yield _Named(f"tokenizer of {run}", config.tokenizer, lasting=False)
    if (settings := _deepspeed_file(run)) is not None:
        yield _Named(f"training.deepspeed of {run}", settings, lasting=False)
    yield _Named(f"output of {run}", config.output, lasting=True)


def _deepspeed_file(run: str) -> str | None:
    """The path of DeepSpeed's own settings, which a loaded configuration has taken in already."""
    if not (path := _Named("run", run, lasting=False)).local:
        return None
    training = (yaml.safe_load(path.path.read_text("utf-8")) or {}).get("training")
    settings = training.get("deepspeed") if isinstance(training, dict) else None
    return settings if isinstance(settings, str) else None


def _plain(path: Path) -> Path:
    """Absolute and without `..`; links stay what they are called, since that is the name the run file has for them."""
    return Path(os.path.normpath(path.absolute()))


def _below(path: Path, folders: Iterable[Path]) -> bool:
    return path.is_absolute() and any(path.is_relative_to(folder) for folder in folders)


def _files(path: Path) -> Iterator[Path]:
    yield from (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
