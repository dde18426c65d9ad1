"""What becomes of a tangent's numbers in the store, and how far off they may then be.

| codec    | stored                     | largest error of a number x                                            |
|----------|----------------------------|------------------------------------------------------------------------|
| float32  | the number                 | none                                                                   |
| bfloat16 | its upper 16 bits, rounded | 2⁻⁸ · abs(x), or 2⁻¹³⁴ where that is less                              |
| int8     | round(x / s), s = m / 127  | m / 254, m the largest abs(x) of its block; all of it where m < 1e-30  |
| int4     | round(x / s), s = m / 7    | m / 14, the same; two numbers a byte, the first in the lower half + 8  |

The bounds of the integers hold up to float32's own rounding, a millionth of m. A row is worked on in pieces that stay
in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_attr.config import CodecName, StoreConfig

PIECE = 2**15  # numbers worked on at once; a multiple of every block size
SMALLEST = 1e-30  # a block without a larger number is stored as zeros: its scale would leave float32's normal range
LARGEST = float(np.float32(3.38e38))  # what bfloat16 does not round to infinity

Numbers = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A tangent as it is stored.

    Attributes:
        values: (P,) float32, uint16 (bfloat16) or int8; (⌈P/2⌉,) uint8 of int4.
        scales: (⌈P/block size⌉,) of int8 and int4, empty of the others.
    """

    values: NDArray[np.generic]
    scales: Numbers


@dataclass(frozen=True)
class Codec:
    """Encoding and decoding of rows; see the table above.

    Attributes:
        dtype: of the stored values.
        levels: the largest integer; 0 of the floating-point codecs.
        block_size: numbers that share a scale.
    """

    name: CodecName
    dtype: np.dtype[np.generic]
    levels: int
    block_size: int

    @classmethod
    def of(cls, settings: StoreConfig) -> Codec:
        """The codec that settings name."""
        dtype, levels = {"float32": ("<f4", 0), "bfloat16": ("<u2", 0), "int8": ("i1", 127), "int4": ("u1", 7)}[
            settings.codec
        ]
        return cls(settings.codec, np.dtype(dtype), levels, settings.block_size)

    def length(self, size: int) -> int:
        """Stored values of P numbers."""
        return (size + 1) // 2 if self.name == "int4" else size

    def blocks(self, size: int) -> int:
        """Scales of P numbers."""
        return -(-size // self.block_size) if self.levels else 0

    def bytes(self, size: int) -> int:
        """What P numbers take before they are compressed."""
        return self.length(size) * self.dtype.itemsize + 4 * self.blocks(size)

    def encode(self, row: Numbers) -> Encoded:
        """Encode P numbers, each of at most LARGEST."""
        if self.name == "float32":
            return Encoded(np.ascontiguousarray(row, "<f4"), np.empty(0, np.float32))
        if self.name == "bfloat16":
            return Encoded(_to_bfloat16(np.ascontiguousarray(row)), np.empty(0, np.float32))
        size = len(row)
        values = np.empty(self.blocks(size) * self.block_size, np.int8)
        scales = np.empty(self.blocks(size), np.float32)
        work = np.empty((PIECE // self.block_size, self.block_size), np.float32)
        for part, blocks in self._pieces(size):
            self._quantise(row[part], work, values[blocks.start * self.block_size :], scales[blocks])
        return Encoded(values[:size] if self.name == "int8" else _packed(values[: size + size % 2]), scales)

    def _quantise(self, row: Numbers, work: Numbers, values: NDArray[np.int8], scales: Numbers) -> None:
        """Fill the scales of a piece and the values at their start; `work` is scratch."""
        if len(row) < len(scales) * self.block_size:
            row = np.concatenate([row, np.zeros(len(scales) * self.block_size - len(row), np.float32)])
        blocks, scratch = row.reshape(len(scales), -1), work[: len(scales)]
        np.abs(blocks, out=scratch)
        largest = scratch.max(axis=1)
        largest[largest < SMALLEST] = 0.0
        np.divide(largest, self.levels, out=scales)
        per_number = np.divide(self.levels, largest, out=np.zeros_like(largest), where=largest > 0)
        np.multiply(blocks, per_number[:, None], out=scratch)
        np.rint(scratch, out=scratch)
        values[: row.size] = scratch.reshape(-1)

    def decode(self, encoded: Encoded, out: Numbers) -> None:
        """Fill `out` (P,)."""
        if self.name == "float32":
            out[:] = encoded.values
        elif self.name == "bfloat16":
            np.left_shift(encoded.values, 16, out=out.view(np.uint32), dtype=np.uint32)
        else:
            for part, blocks in self._pieces(len(out)):
                self._multiply(encoded, part, encoded.scales[blocks], out[part])

    def _multiply(self, encoded: Encoded, part: slice, scales: Numbers, out: Numbers) -> None:
        values = encoded.values[part]
        if self.name == "int4":
            values = _unpacked(encoded.values[part.start // 2 : (part.stop + 1) // 2])[: len(out)]
        whole = len(out) // self.block_size * self.block_size
        blocks = out[:whole].reshape(-1, self.block_size)
        blocks[:] = values[:whole].reshape(-1, self.block_size)
        blocks *= scales[: len(blocks), None]
        if whole < len(out):
            np.multiply(values[whole:], scales[-1], out=out[whole:])

    def _pieces(self, size: int) -> Iterator[tuple[slice, slice]]:
        """Slices of the numbers and of their scales, piece by piece."""
        for start in range(0, size, PIECE):
            stop = min(size, start + PIECE)
            yield slice(start, stop), slice(start // self.block_size, -(-stop // self.block_size))

    def bound(self, row: Numbers) -> Numbers:
        """The largest error that encoding each of P numbers may make."""
        if self.name == "float32":
            return np.zeros_like(row)
        if self.name == "bfloat16":
            return np.maximum(np.abs(row) * np.float32(2**-8), np.float32(2.0**-134))
        padded = np.zeros(self.blocks(len(row)) * self.block_size, np.float32)
        padded[: len(row)] = np.abs(row)
        largest = padded.reshape(-1, self.block_size).max(axis=1)
        errors = np.where(largest < SMALLEST, largest, largest * np.float32(0.5 / self.levels + 1e-6))
        return np.repeat(errors, self.block_size)[: len(row)]


def _to_bfloat16(row: Numbers) -> NDArray[np.uint16]:
    """Round to the nearest, to even where two are as near."""
    values = np.empty(len(row), np.uint16)
    for start in range(0, len(row), PIECE):
        bits = row[start : start + PIECE].view(np.uint32)
        rounding = bits >> np.uint32(16)
        rounding &= np.uint32(1)
        rounding += np.uint32(0x7FFF)
        rounding += bits
        rounding >>= np.uint32(16)
        values[start : start + PIECE] = rounding
    return values


def _packed(values: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Two numbers of −7 … 7 in a byte."""
    halves = (values + np.int8(8)).view(np.uint8)
    return halves[0::2] | (halves[1::2] << np.uint8(4))


def _unpacked(stored: NDArray[np.generic]) -> NDArray[np.int8]:
    halves = np.empty((len(stored), 2), np.uint8)
    np.bitwise_and(stored, np.uint8(15), out=halves[:, 0])
    np.right_shift(stored, np.uint8(4), out=halves[:, 1])
    return halves.reshape(-1).view(np.int8) - np.int8(8)
