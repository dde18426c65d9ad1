"""Directions in memory, as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_attr.store import Codec, Encoded, InfluenceStore

AT_ONCE = 8  # combinations that are added up together


class Rows:
    """Encoded rows that are decoded a few at a time, so that memory stays near what the store takes.

    Attributes:
        size: P.
    """

    def __init__(self, codec: Codec, encoded: Sequence[Encoded], size: int, device: torch.device) -> None:
        self.size = size
        self._codec, self._encoded, self._device = codec, encoded, device

    @classmethod
    def of(cls, store: InfluenceStore, rows: Sequence[int], device: torch.device) -> Rows:
        """Some of the sources of a store. Raises StoreError when one is damaged."""
        return cls(store.codec, store.encoded_rows(rows), store.manifest.space.size, device)

    def first(self, number: int) -> Rows:
        """The first few of them."""
        return Rows(self._codec, self._encoded[:number], self.size, self._device)

    def __len__(self) -> int:
        return len(self._encoded)

    def parts(self, number: int) -> Iterator[Tensor]:
        """All rows in stacks of some number, (number, P) float32. A stack is overwritten by the next one."""
        decoded = np.empty((min(number, len(self)), self.size), np.float32)
        for start in range(0, len(self), number):
            part = self._encoded[start : start + number]
            for row, out in zip(part, decoded, strict=False):
                self._codec.decode(row, out)
            yield torch.from_numpy(decoded[: len(part)]).to(self._device)

    def mixed(self, mixing: Tensor) -> Mixed:
        """Combinations of all S rows by the rows of mixing (K, S), made when they are needed."""
        return Mixed(self, mixing)

    def combined(self, mixing: Tensor) -> Iterator[NDArray[np.float32]]:
        """Combinations (P,) of all S rows, one after another, by their rows of mixing (R, S). Few are in memory."""
        for some in self.mixed(mixing).parts(AT_ONCE):
            yield from some.cpu().numpy()


class Mixed(Rows):
    """Combinations of other rows. They are made again each time they are read, and few are in memory at once."""

    def __init__(self, rows: Rows, mixing: Tensor) -> None:
        super().__init__(rows._codec, [], rows.size, rows._device)
        self._rows, self._mixing = rows, mixing.to(rows._device, torch.float32)

    def __len__(self) -> int:
        return len(self._mixing)

    def first(self, number: int) -> Rows:
        """The first few of them."""
        return Mixed(self._rows, self._mixing[:number])

    def parts(self, number: int) -> Iterator[Tensor]:
        """All combinations in stacks of some number, (number, P) float32."""
        for some in torch.split(self._mixing, number):
            total, first = torch.zeros(len(some), self.size, device=self._device), 0
            for part in self._rows.parts(AT_ONCE):
                total += some[:, first : first + len(part)] @ part
                first += len(part)
            yield total
