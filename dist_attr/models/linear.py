"""Models in torch's own layers, for libraries that know no others."""

from __future__ import annotations

import copy

from torch import nn


def linear_layers(model: nn.Module) -> nn.Module:
    """A copy whose layers of transformers' `Conv1D`, as GPT-2 has them, are torch's `Linear`: the same function.

    Their weights are transposed; all names stay, and what is trained stays.
    """
    from transformers.pytorch_utils import Conv1D

    model = copy.deepcopy(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Conv1D):
            inputs, outputs = layer.weight.shape
            linear = nn.Linear(inputs, outputs, device="meta")
            linear.weight = nn.Parameter(layer.weight.detach().T.contiguous(), layer.weight.requires_grad)
            linear.bias = layer.bias
            model.set_submodule(name, linear)
    return model
