"""Put on PYTHONPATH by a test of law 9: autograd's backward pass is disabled in every process that finds this."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def _refused(*_: Any, **__: Any) -> Any:
    raise AssertionError("a backward pass was started")


# The one door to the backward engine, under each name by which torch goes through it.
torch.autograd.graph._engine_run_backward = _refused
torch.autograd._engine_run_backward = _refused  # type: ignore[attr-defined]

Path(os.environ["NO_BACKWARD_WITNESS"], str(os.getpid())).touch()
