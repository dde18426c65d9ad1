"""The self-check passes sound models, and finds wrong derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_attr.influence import self_check
from tests.runs import MODELS, SOURCES, small_run


class WrongForward(torch.autograd.Function):
    """The identity, whose forward derivative is off by a tenth."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return 1.1 * tangent


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("trained", [{}, {"lora": {"rank": 2}}])
def test_sound_models_pass(model: str, trained: dict[str, Any]) -> None:
    run = small_run(model, dtype=torch.float32, trained=trained)
    result = self_check(run.step, run.theta, torch.ones(SOURCES), run.batches[0], 1)
    assert result.gradient < 1e-3
    assert result.readout < 1e-3


def test_a_wrong_derivative_is_found() -> None:
    run = small_run(dtype=torch.float32)

    def forward(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return WrongForward.apply(run.step.forward(parameters, inputs))  # type: ignore[no-any-return, no-untyped-call]

    result = self_check(replace(run.step, forward=forward), run.theta, torch.ones(SOURCES), run.batches[0], 1)
    assert result.gradient > 1e-2
    assert result.readout > 5e-2
