"""Law 5 where the output of a run lies on S3: the same, bit for bit, as without an interruption on a local disk."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

import dist_attr as da
from dist_attr.errors import StoreError
from dist_attr.models import download_folder, load_model, model_fingerprint
from dist_attr.simulation import StrideReport
from tests.end_to_end.conftest import SOURCES
from tests.end_to_end.test_resume import ALWAYS, interrupt_at
from tests.end_to_end.test_simulate import Settings
from tests.proxy import Proxy
from tests.s3_server import S3Server


@pytest.fixture
def output(s3: S3Server, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A place in an empty bucket, which the driver finds as the cluster does."""
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid4().hex}"
    s3.files().mkdir(bucket)
    return f"s3://{bucket}/run"


def written(s3: S3Server, output: str) -> dict[int, dict[str, Any]]:
    """When the objects of each whole row were written; its step is the last of them."""
    files, store = s3.files(), f"{output.removeprefix('s3://')}/influence.zarr"
    found = files.find(store, detail=True)
    rows = [row for row in range(len(SOURCES)) if f"{store}/progress/step/c/{row}" in found]
    parts = ("tangents/c/{0}/0", "progress/checksum/c/{0}/0", "progress/step/c/{0}")
    return {row: {part: found[f"{store}/{part.format(row)}"]["LastModified"] for part in parts} for row in rows}


def interrupt_when_a_row_is_written(s3: S3Server, output: str, over: threading.Event) -> None:
    while not over.wait(0.02):
        if written(s3, output):
            os.kill(os.getpid(), signal.SIGINT)
            return


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_law_5_on_s3_after_ctrl_c_in_training_and_while_rows_are_written(
    finished_run: Path, settings: Settings, output: str, s3: S3Server, s3_proxy: Proxy
) -> None:
    config = settings(output, cluster=ALWAYS)
    with pytest.raises(KeyboardInterrupt):
        da.simulate(config, progress=interrupt_at(3))
    with pytest.raises(StoreError, match=f"there is no influence store at {output}/influence.zarr"):
        da.open_store(f"{output}/influence.zarr")

    steps: list[int] = []
    over = threading.Event()
    watcher = threading.Thread(target=interrupt_when_a_row_is_written, args=(s3, output, over))

    def slow_at_the_end(report: StrideReport) -> None:
        steps.append(report.step)
        if report.step == report.steps:
            s3_proxy.delay = 0.1
            watcher.start()

    try:
        with pytest.raises(KeyboardInterrupt):
            da.simulate(config, progress=slow_at_the_end)
    finally:
        over.set()
        s3_proxy.delay = 0.0
    watcher.join()
    assert steps[0] > 3, "it began anew instead of continuing"
    with pytest.raises(StoreError, match="is not finished, these sources are missing: "):
        da.open_store(f"{output}/influence.zarr")
    kept = written(s3, output)
    assert 0 < len(kept) < len(SOURCES)

    store = da.simulate(config)
    assert store is not None
    after = written(s3, output)
    assert len(after) == len(SOURCES)
    assert {row: after[row] for row in kept} == kept
    assert np.array_equal(store.tangents(), da.open_store(str(finished_run / "influence.zarr")).tangents())
    with download_folder(f"{output}/model") as folder:
        assert model_fingerprint(load_model(folder)) == model_fingerprint(load_model(str(finished_run / "model")))
    parts = {name.split("/")[2] for name in s3.files().find(output)}
    assert parts == {"influence.zarr", "model", "run.yaml"}
