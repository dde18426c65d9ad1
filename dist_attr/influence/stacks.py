"""Where the states of sources lie: stacks of vectors, beside the run or elsewhere.

A simulator asks for its stacks from a function like `beside_the_run` and moves rows to the run's device pass by pass,
so that they may lie in host memory or in a file as well. All begin as zeros, and rows that were never written take no
memory: a source that was in no batch yet costs nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

import torch
from torch import Tensor

Stack = Callable[[int, Tensor], Tensor]
"""Zeros (rows, P) of the type of a vector (P,)."""


def beside_the_run(rows: int, vector: Tensor) -> Tensor:
    """Zeros (rows, P) on the device of a vector (P,)."""
    return mapped_zeros(rows, vector) if vector.device.type == "cpu" else vector.new_zeros(rows, len(vector))


def mapped_zeros(rows: int, vector: Tensor, file: int = -1) -> Tensor:
    """Zeros (rows, P) of the type of a vector (P,), in pages that the system provides when they are first written.

    Args:
        rows: how many.
        vector: gives P and the type.
        file: descriptor of an empty file that holds them instead of the process's own memory; it may be closed.
    """
    size = rows * vector.nbytes
    if size == 0:
        return torch.zeros(rows, len(vector), dtype=vector.dtype)
    shared = mmap.MAP_SHARED if file >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return torch.frombuffer(mmap.mmap(file, size, shared), dtype=vector.dtype).view(rows, -1)
