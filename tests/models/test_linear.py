"""Models in torch's own linear layers."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from dist_attr.models import linear_layers
from tests.runs import LENGTH, VOCABULARY, small_model


def test_conv1d_becomes_linear_and_the_function_stays() -> None:
    model = small_model("gpt2", trained={"include": ["mlp"]})
    converted = linear_layers(model)
    assert not any(isinstance(layer, Conv1D) for layer in converted.modules())
    assert isinstance(converted.get_submodule("transformer.h.0.attn.c_attn"), nn.Linear)
    tokens = torch.randint(0, VOCABULARY, (3, LENGTH))
    torch.testing.assert_close(converted(tokens).logits, model(tokens).logits, rtol=1e-5, atol=1e-5)
    for (name, own), (other, kept) in zip(converted.named_parameters(), model.named_parameters(), strict=True):
        assert (name, own.requires_grad, own.numel()) == (other, kept.requires_grad, kept.numel())
    assert any(isinstance(layer, Conv1D) for layer in model.modules())
