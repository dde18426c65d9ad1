"""Where the marks of a plot lie; a page draws them as SVG, in its own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_LABELLED = 40  # points; more names than that are not readable
LETTER, LINE = 6.2, 13.0  # of a label, pixels


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high`, both round numbers, with `ticks` between them."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Axis:
        """One that holds all values and has about five ticks."""
        low, high = min(values), max(values)
        if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
            low, high = low - (abs(low) or 1), high + (abs(high) or 1)
        raw = (high - low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(times * power for times in (1, 2, 2.5, 5, 10) if times * power >= raw * (1 - 1e-9))
        first, last = math.floor(low / step), math.ceil(high / step)
        # Multiples, not sums, so that 0 is 0.
        return cls(first * step, last * step, tuple(round(i * step, 12) for i in range(first, last + 1)))

    def at(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Point:
    """A dot at pixels (x, y) from the lower left corner; its label begins or ends beside it, or is left out."""

    x: float
    y: float
    name: str
    label_x: float | None
    anchor: str


def histogram(values: Sequence[float], bins: int = 20) -> list[int]:
    """Numbers of values, which lie between −1 and 1, in bins of equal width."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value + 1) / 2 * bins))] += 1
    return counts


def scatter(
    named: Sequence[tuple[str, float, float]], across: Axis, up: Axis, width: float, height: float
) -> list[Point]:
    """Points with labels that do not cover each other or a dot; where there is no room a point has none."""
    dots = [(width * across.at(x), height * up.at(y)) for _, x, y in named]
    taken = [(x - 5, x + 5, y - 5, y + 5) for x, y in dots]
    points = []
    for (x, y), (name, _, _) in zip(dots, named, strict=True):
        length = LETTER * len(name)
        for start, anchor in ((x + 8, "start"), (x - 8 - length, "end")):
            box = (start, start + length, y - LINE / 2, y + LINE / 2)
            free = all(box[1] < a or b < box[0] or box[3] < c or d < box[2] for a, b, c, d in taken)
            if len(named) <= MOST_LABELLED and free and start >= 0 and start + length <= width + 60:
                taken.append(box)
                points.append(Point(x, y, name, x + 8 if anchor == "start" else x - 8, anchor))
                break
        else:
            points.append(Point(x, y, name, None, "start"))
    return points
