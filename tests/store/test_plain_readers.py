"""What the guide says about reading a store without this package, executed as it stands there."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dist_attr.config import CodecName
from dist_attr.store import open_store
from tests.store.test_transfer import CODECS, NAMES, SIZE, make

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
SECTION = GUIDE.read_text("utf-8").partition("\n## The store\n")[2].partition("\n## ")[0]
(SNIPPET,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
PATH = "runs/demo/influence.zarr"


@pytest.mark.parametrize("codec", CODECS)
def test_the_guides_snippet_reads_every_codec(codec: CodecName, tmp_path: Path) -> None:
    store = open_store(make(f"{tmp_path}/a.zarr", codec, failed={"ant": "it diverged"}))
    found: dict[str, Any] = {}
    assert PATH in SNIPPET
    exec(SNIPPET.replace(PATH, store.url), found)
    assert found["size"] == SIZE and found["row"] == 1
    assert list(found["sources"]["name"]) == list(NAMES)
    assert found["tangent"].dtype == np.float32
    assert np.array_equal(found["tangent"], store.tangents([0])[0])


def test_the_guides_snippet_needs_nothing_of_ours(tmp_path: Path) -> None:
    code = SNIPPET.replace(PATH, make(f"{tmp_path}/a.zarr", "int8"))
    code += "\nimport sys; assert not [name for name in sys.modules if name.startswith('dist_attr')]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_where_blocks_divide_the_row_scales_are_a_column(tmp_path: Path) -> None:
    """The comment in the snippet."""
    assert "(tangent.reshape(-1, block) * scales[:, None]).reshape(-1)" in SNIPPET
    store = open_store(make(f"{tmp_path}/a.zarr", "int8"))
    stored = store.encoded(0)
    whole = SIZE // 64
    tangent: Any = stored.values[: 64 * whole]
    scales, block = stored.scales[:whole], 64
    decoded = (tangent.reshape(-1, block) * scales[:, None]).reshape(-1)
    assert np.array_equal(decoded, store.tangents([0])[0][: 64 * whole])


@pytest.mark.parametrize("codec", CODECS)
def test_the_checksum_in_the_table_is_that_of_values_and_scales(codec: CodecName, tmp_path: Path) -> None:
    import zarr

    path = make(f"{tmp_path}/a.zarr", codec)
    group, table = zarr.open_group(path, mode="r"), pq.read_table(f"{path}/sources.parquet").to_pylist()
    for row, record in enumerate(table):
        arrays: list[Any] = [group[name] for name in ("tangents", "scales") if name in group]
        data = b"".join(np.asarray(array[row]).tobytes() for array in arrays)
        assert hashlib.sha256(data).hexdigest() == record["checksum"]


def test_the_guides_bounds_are_the_codecs() -> None:
    from dist_attr.config import StoreConfig
    from dist_attr.store import Codec

    row = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    largest = np.abs(row).max()
    for name, said in {"bfloat16": np.abs(row) / 256, "int8": largest / 254, "int4": largest / 14}.items():
        bound = Codec.of(StoreConfig(codec=name)).bound(row)
        np.testing.assert_allclose(bound, np.broadcast_to(said, 64), rtol=1e-3)


def test_every_command_of_the_guide_is_one() -> None:
    from typer.testing import CliRunner

    from dist_attr.cli import app

    lines = re.findall(r"^    dist-attr (\w+) ([^#\n]*)", SECTION, re.MULTILINE)
    assert {name for name, _ in lines} == {"inspect", "verify", "calibrate", "copy", "merge", "rm"}
    for name, arguments in lines:
        shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
        for option in re.findall(r"--[a-z-]+", arguments):
            assert option in shown
