"""The parameter space."""

from __future__ import annotations

import torch
from torch import nn

from dist_attr.influence import ParameterSpace
from tests.runs import small_model


def test_round_trip() -> None:
    model = small_model("gpt2")
    space = ParameterSpace.of(model)
    vector = torch.randn(space.size)
    space.write(model, vector)
    assert torch.equal(space.read(model), vector)
    assert torch.equal(space.flatten(space.unflatten(vector)), vector)


def test_tied_weights_are_counted_once() -> None:
    model = small_model("gpt2")
    space = ParameterSpace.of(model)
    assert model.lm_head.weight is model.transformer.wte.weight  # type: ignore[union-attr]
    assert "lm_head.weight" not in space.names
    assert space.size == sum(p.numel() for p in model.parameters())


def test_frozen_parameters_carry_no_tangent() -> None:
    module = nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    assert ParameterSpace.of(module).names == ("weight",)


def test_offsets_say_where_each_parameter_lies() -> None:
    space = ParameterSpace.of(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)))
    assert space.offsets == (0, 6, 8, 12)
    assert space.size == 14
