"""What all settings share."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Self

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ConfigDict, ValidationError

from dist_attr.errors import ConfigError


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

    @classmethod
    def parse(cls, values: Any, where: str = "configuration") -> Self:
        """Validate a mapping; like `model_validate`, but the error is one a user can read."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = [
                f"  {'.'.join(str(part) for part in item['loc']) or '(top level)'}: {item['msg']}"
                for item in error.errors()
            ]
            raise ConfigError(f"{where} is not valid:\n" + "\n".join(problems)) from error

    def changed(self, *, but: Collection[str] = ()) -> list[str]:
        """Names of the settings, but for some, that differ from their defaults."""
        return [
            name
            for name, field in type(self).model_fields.items()
            if name not in but and getattr(self, name) != field.get_default(call_default_factory=True)
        ]
