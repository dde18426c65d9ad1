"""The parameter space: the trainable parameters of a model as one vector of length P."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor, nn


class Forward(Protocol):
    """A model as a function of its parameters."""

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Logits, one row of classes for each target: inputs (B, L) tokens -> (B, L, classes)."""
        ...


def module_forward(module: nn.Module) -> Forward:
    """A plain module that maps inputs to logits, as a function of its parameters."""

    def forward(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        logits = torch.func.functional_call(module, dict(parameters), (inputs,))
        assert isinstance(logits, Tensor)
        return logits

    return forward


@dataclass(frozen=True)
class ParameterSpace:
    """Names and shapes of the parameters that carry tangents, in the order in which they are laid out.

    A tied weight is one parameter and stands under the first of its names.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, module: nn.Module) -> ParameterSpace:
        """All trainable parameters of a module."""
        trainable = [(name, tuple(p.shape)) for name, p in module.named_parameters() if p.requires_grad]
        return cls(tuple(name for name, _ in trainable), tuple(shape for _, shape in trainable))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each parameter."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each parameter starts in the vector."""
        return tuple(accumulate(self.sizes, initial=0))[:-1]

    @property
    def size(self) -> int:
        """P, the length of the vector."""
        return sum(self.sizes)

    def items(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Each parameter's name and shape."""
        return zip(self.names, self.shapes, strict=True)

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The named tensors as one new vector (P,), detached."""
        return torch.cat([parameters[name].detach().reshape(-1) for name in self.names])

    def read(self, module: nn.Module) -> Tensor:
        """A module's present parameters as one new vector (P,)."""
        return self.flatten(dict(module.named_parameters()))

    @torch.no_grad()
    def write(self, module: nn.Module, vector: Tensor) -> None:
        """Set a module's parameters from a vector (P,)."""
        parameters = dict(module.named_parameters())
        for name, value in self.unflatten(vector).items():
            parameters[name].copy_(value)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector (P,) as named views of it; differentiable, and batched by vmap."""
        pieces = torch.split(vector, list(self.sizes))
        return {name: piece.view(shape) for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)}
