"""The laws are exact, so they are tried in exact arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama


class _Float64Torch:
    """The torch module, with float64 for float32."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.fixture
def float64_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers takes norms and softmax in float32 whatever a model's dtype; lift them too, to compare to 1e-6."""
    for module in (modeling_llama, modeling_gpt_neox):
        monkeypatch.setattr(module, "torch", _Float64Torch())
