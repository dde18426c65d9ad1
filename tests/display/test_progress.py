"""Progress where nobody watches a terminal: in the log of a job."""

from __future__ import annotations

import pytest

from dist_attr.display import steps_progress, terminal


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
