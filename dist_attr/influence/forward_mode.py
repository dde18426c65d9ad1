"""Forward-mode differentiation along a stack of tangents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch.func import jvp, vmap

T = TypeVar("T")


def push_forward(function: Callable[..., T], at: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[T, T]:
    """The value of a function and its derivative along each tangent of a stack.

    Args:
        function: of any number of tensors, or tuples of tensors.
        at: its arguments.
        tangents: for each argument a stack of tangents, the stack being the first dimension.

    Returns:
        The value, computed once, and the stack of its derivatives.
    """
    # The stubs of torch.func know neither pytrees nor an unbatched output.
    batched: Any = vmap(lambda *along: jvp(function, at, along), out_dims=(None, 0))  # type: ignore[arg-type]
    value, derivatives = batched(*tangents)
    return value, derivatives
