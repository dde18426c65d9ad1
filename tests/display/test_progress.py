"""Progress where nobody watches a terminal: in the log of a job."""

from __future__ import annotations

import pytest

from dist_attr.config import RunConfig, TrainingConfig
from dist_attr.display import run_progress, steps_progress, terminal
from dist_attr.simulation import StrideReport


def test_a_log_gets_lines_while_the_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "LOG_SECONDS", 0.0)
    with steps_progress("beginning") as progress:
        progress("training", 1, 3)
        assert "training" in capsys.readouterr().err
        progress("training", 2, 3)
        assert "2/3" in capsys.readouterr().err


def test_not_one_for_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    with steps_progress("beginning") as progress:
        for done in range(100):
            progress("training", done, 100)
        assert capsys.readouterr().err == ""


def test_steps_of_a_minute_have_an_eta(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A run takes such steps where the model is large; the first of a resumed one says nothing of the rest."""
    now = 0.0
    monkeypatch.setattr("rich.console.monotonic", lambda: now)
    monkeypatch.setattr(terminal, "LOG_SECONDS", 0.0)
    with run_progress(RunConfig(training=TrainingConfig(steps=30))) as progress:
        for step in range(20, 24):
            now += 60.0
            progress(StrideReport(step=step, steps=30, loss=2.0, drift=0.0, replica_steps_per_second=0.43))
    shown = capsys.readouterr().err.splitlines()
    assert "0.43 source-steps/s" in shown[-1]
    assert [line.split("ETA")[1].strip() for line in shown[2:4]] == ["08:00", "07:00"]
