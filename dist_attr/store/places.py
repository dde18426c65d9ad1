"""Where a store lies: any fsspec URL. S3 is read and written through obstore, which is faster than s3fs.

Credentials are found the usual way: what `storage_options` say, fsspec's own configuration (FSSPEC_S3_KEY ...), AWS's
variables, profiles and instance roles. They stay in this process: neither stored nor put into an error.
"""

from __future__ import annotations

import errno
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import fsspec
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, ObjectStore

from dist_attr.errors import DamagedError, StoreError

ACCESS = "check the credentials (environment, profile or role) and what they allow"
CONNECT_SECONDS = 10.0
SILENT_SECONDS = 60.0  # without a byte of an answer, the sending of a part of 5 MiB included; then it is tried again
# A minute or so, and hardly ever less than 40 seconds: enough for a server to be started again. Each pause is drawn
# between the first and `base` times the one before, so that with a base below 3 they do not become longer.
RETRIES: Any = {
    "max_retries": 20,
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=5), "base": 6},
    "retry_timeout": timedelta(minutes=3),
}
ATTEMPTS = 10  # as patient, for what goes through s3fs


@dataclass(frozen=True)
class Place:
    """A URL, and how to reach it.

    Attributes:
        url: any fsspec URL or a local path.
        options: fsspec's storage options of it; may hold secrets, which `repr` leaves out.
        cache: a local folder that keeps what is read from a remote store; none if not wanted.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    cache: str | None = None

    def files(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """The file system and the path on it."""
        options = dict(self.options)
        if on_s3 := self.url.startswith(("s3://", "s3a://")):
            options = {**fsspec.config.conf.get("s3", {}), **options}
            options["config_kwargs"] = {**_s3fs_limits(), **options.get("config_kwargs", {})}
            options.setdefault("use_listings_cache", False)  # others write here too
        try:
            files, path = fsspec.core.url_to_fs(self.url, **options)
            if on_s3:
                files.retries = 2  # times ATTEMPTS
                with clear_errors(self.url):
                    files.connect()  # finds what is wrong with a profile or an endpoint; nothing is sent
        except (ImportError, ValueError, TypeError) as error:
            raise StoreError(f"cannot reach {self.url}: {error}") from error
        return files, path

    @property
    def local(self) -> str | None:
        """The path of a local store."""
        files, path = self.files()
        return str(path) if isinstance(files, LocalFileSystem) else None

    def zarr_store(self, *, read_only: bool) -> Store:
        """The Zarr store at this place."""
        files, path = self.files()
        if isinstance(files, LocalFileSystem):
            # FsspecStore does not create the directories of a file:// URL.
            return LocalStore(path, read_only=read_only)
        if self.cache is not None and read_only:
            kept = fsspec.filesystem("filecache", fs=files, cache_storage=self.cache, check_files=True)
            # Zarr takes the cache for an asynchronous file system, as what it caches is one.
            return FsspecStore(AsyncFileSystemWrapper(kept, asynchronous=True), read_only=True, path=path)
        if "s3" in files.protocol:
            return ObjectStore(_s3(files, path), read_only=read_only)
        return FsspecStore.from_url(self.url, storage_options=dict(self.options), read_only=read_only)

    def exists(self) -> bool:
        """Whether anything lies here."""
        files, path = self.files()
        with clear_errors(self.url):
            return bool(files.exists(path))

    def stored_bytes(self) -> int:
        """Size of all that lies here."""
        files, path = self.files()
        with clear_errors(self.url):
            files.invalidate_cache(path)
            return int(files.du(path))

    def write(self, name: str, data: bytes) -> None:
        """Write a file of this folder, which is made if need be; it is there whole, or not at all.

        Raises:
            StoreError: the place cannot be written to.
        """
        files, folder = self.files()
        path = f"{folder}/{name}"
        with clear_errors(self.url, making=True):
            if self.local is None:  # an object appears when all of it is sent
                files.pipe_file(path, data)
                return
            parent, _, last = path.rpartition("/")
            part = f"{parent}/.{last}.new"  # readers of a folder pass over a hidden file
            files.makedirs(parent, exist_ok=True)
            files.pipe_file(part, data)
            files.mv(part, path)

    def read(self, name: str) -> bytes | None:
        """A file of this folder, or None when there is none. Raises StoreError when the place cannot be reached."""
        files, folder = self.files()
        try:
            with clear_errors(self.url):
                data: bytes = files.cat_file(f"{folder}/{name}")
        except FileNotFoundError:
            return None
        return data

    def beside(self, name: str) -> Place:
        """Another name in the folder that this lies in."""
        return Place(f"{self.url.rstrip('/').rpartition('/')[0] or '.'}/{name}", self.options, self.cache)


def _s3fs_limits() -> dict[str, Any]:
    """botocore's configuration. Its requests are small, and sent once more by s3fs: silence shows sooner."""
    return {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": SILENT_SECONDS / 4,
        "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
    }


def _s3(files: Any, path: str) -> Any:
    """What obstore needs, from what s3fs has found out about URL, options and its own configuration."""
    from obstore.store import S3Store

    bucket, _, prefix = path.partition("/")
    client = files.s3.meta  # all of them resolved, by AWS's own rules
    limits = {
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=SILENT_SECONDS),
        "timeout": timedelta(hours=1),  # of a whole answer: slow is not silent
    }
    settings: dict[str, Any] = {"region": client.region_name, "client_options": limits}
    if not client.endpoint_url.endswith(".amazonaws.com"):
        settings["endpoint"] = client.endpoint_url
        settings["client_options"]["allow_http"] = client.endpoint_url.startswith("http://")
    if files.anon:
        settings["skip_signature"] = True
    elif files.key is not None:
        settings |= {"access_key_id": files.key, "secret_access_key": files.secret, "session_token": files.token}
    else:
        settings["credential_provider"] = _Credentials(files.kwargs.get("profile"))
    given = {name: value for name, value in settings.items() if value is not None}
    return S3Store(bucket, prefix=prefix or None, retry_config=RETRIES, **given)


class _Credentials:
    """AWS's chain (environment, profile, role of the instance or the pod), asked again before they expire."""

    def __init__(self, profile: str | None) -> None:
        from botocore.session import Session

        self._session = Session(profile=profile)

    def __call__(self) -> dict[str, Any]:
        found = self._session.get_credentials()
        if found is None:
            raise PermissionError("no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=10) if frozen.token else None,
        }


@contextmanager
def clear_errors(url: str, *, making: bool = False) -> Iterator[None]:
    """Whatever a file system or a server says, as a StoreError that says what to do.

    FileNotFoundError stays itself, unless something is being made: then it is the place that is missing.
    """
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        if not making:
            raise
        raise StoreError(f"cannot write to {url}: its bucket or folder does not exist; make it first") from error
    except PermissionError as error:
        raise StoreError(f"no access to {url}: {_short(error)}; {ACCESS}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"no room for {url} on {platform.node()}: {_short(error)}; make room, and start the same again"
            ) from error
        raise StoreError(f"cannot reach {url}: {_short(error)}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("obstore", "botocore", "aiobotocore", "aiohttp"):
            raise
        if type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
            raise StoreError(f"no access to {url}: {_short(error)}; {ACCESS}") from error
        raise StoreError(f"cannot reach {url}: {_short(error)}") from error


@contextmanager
def clear_damage(what: str) -> Iterator[None]:
    """Whatever libraries say of bytes that are not as they should be, as a DamagedError."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        raise DamagedError(f"{what}: {_short(error)}") from error


def _short(error: BaseException) -> str:
    """The first line of an error, without the document that servers answer with."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"[:300]
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].partition("<?xml")[0].strip(" :")[:300]
