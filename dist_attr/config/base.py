"""What all settings share."""

from __future__ import annotations

import re

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict


def absolute_url(url: str) -> str:
    """A local path made absolute, since actors may run in another directory; any other URL as it is."""
    filesystem, path = fsspec.core.url_to_fs(url)
    return str(path) if isinstance(filesystem, LocalFileSystem) else url


def check_pattern(key: str, pattern: str) -> None:
    """Raises ValueError unless the pattern is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{key}: {pattern!r} is not a regular expression: {error}") from error


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
