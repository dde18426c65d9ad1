"""Where credentials are found, each tried in a process that has no others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_attr.store import open_store
from tests.s3_server import S3Server
from tests.store.test_s3 import finished, rows

READ = "import sys; from dist_attr.store import open_store; print(open_store(sys.argv[1]).tangents().tobytes().hex())"
Environment = Callable[[S3Server, Path], dict[str, str]]


def variables(server: S3Server, folder: Path) -> dict[str, str]:
    return server.environment


def profile(server: S3Server, folder: Path) -> dict[str, str]:
    key, secret = server.options["key"], server.options["secret"]
    (folder / "credentials").write_text(f"[mine]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    (folder / "config").write_text(f"[profile mine]\nendpoint_url = {server.endpoint}\n")
    files = {"AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"), "AWS_CONFIG_FILE": str(folder / "config")}
    return {"AWS_PROFILE": "mine", **files}


def fsspecs(server: S3Server, folder: Path) -> dict[str, str]:
    values = {name: server.options[name] for name in ("key", "secret", "endpoint_url")}
    return {f"FSSPEC_S3_{name.upper()}": value for name, value in values.items()}


def nothing(server: S3Server, folder: Path) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": server.endpoint}


def unknown_profile(server: S3Server, folder: Path) -> dict[str, str]:
    return {**profile(server, folder), "AWS_PROFILE": "yours"}


def run(script: str, url: str, environment: dict[str, str], home: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FSSPEC_"))}
    alone = {"HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true"}
    return subprocess.run(
        [sys.executable, "-c", script, url],
        env={**kept, **alone, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("found_in", [variables, profile, fsspecs])
def test_credentials_are_found_in(found_in: Environment, s3: S3Server, bucket: str, tmp_path: Path) -> None:
    values = rows(2, 100)
    finished(f"{bucket}/a.zarr", s3.options, values)
    done = run(READ, f"{bucket}/a.zarr", found_in(s3, tmp_path), tmp_path)
    assert done.returncode == 0, done.stderr
    assert bytes.fromhex(done.stdout) == values.tobytes()
    assert s3.options["secret"] not in done.stderr


@pytest.mark.parametrize(
    ("found_in", "message"),
    [
        (nothing, "no access to {0}/a.zarr: .*set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
        (unknown_profile, "cannot reach {0}/a.zarr: The config profile .yours. could not be found"),
    ],
)
def test_where_there_are_none_the_error_says_so(
    found_in: Environment, message: str, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    done = run(READ, f"{bucket}/a.zarr", found_in(s3, tmp_path), tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert re.search(message.format(bucket), last), done.stderr


def options_of(server: S3Server, folder: Path) -> dict[str, Any]:
    return server.options


def profile_by_name(server: S3Server, folder: Path) -> dict[str, Any]:
    return {"profile": "mine"}


@pytest.mark.parametrize("options", [options_of, profile_by_name])
def test_credentials_are_found_in_options(
    options: Callable[[S3Server, Path], dict[str, Any]],
    s3: S3Server,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in profile(s3, tmp_path).items():
        if name != "AWS_PROFILE":
            monkeypatch.setenv(name, value)
    values = rows(2, 100)
    finished(f"{bucket}/a.zarr", options(s3, tmp_path), values)
    assert np.array_equal(open_store(f"{bucket}/a.zarr", options=options(s3, tmp_path)).tangents(), values)
