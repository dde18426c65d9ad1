"""Plots as numbers that a template draws as SVG: where each mark goes, and what stands along the axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 44  # margins
MOST_DOTS = 2000  # of a series; of more every so many is drawn
MOST_NAMED = 40  # dots; more names than that are not readable
LETTER, LINE = 5.7, 13.0  # of a name, pixels

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Marks of one colour.

    Attributes:
        name: in the legend; empty for none.
        dots: single points, each with what a pointer over it is told.
        line: points that are joined.
        spans: vertical strokes: x, from y, to y.
        named: whether the text of a dot also stands beside it, where there is room.
    """

    name: str
    dots: Sequence[tuple[float, float, str]] = ()
    line: Sequence[Point] = ()
    spans: Sequence[tuple[float, float, float]] = ()
    named: bool = False

    def points(self) -> list[Point]:
        """All that has to be in the picture."""
        ends = [(x, y) for x, low, high in self.spans for y in (low, high)]
        return [*((x, y) for x, y, _ in self.dots), *self.line, *ends]


class Name(NamedTuple):
    """A text at pixels (x, y) that begins there, or ends: SVG's text-anchor."""

    x: float
    y: float
    text: str
    anchor: str


@dataclass(frozen=True)
class Plot:
    """A plot, in pixels.

    Attributes:
        title: above it.
        x_label: along the lower axis.
        y_label: along the left axis.
        series: see `Series`; in pixels.
        x_ticks: place and text.
        y_ticks: place and text.
        rules: straight lines across it: from x, y to x, y.
        names: of dots.
        said: for who cannot see it.
    """

    title: str
    x_label: str
    y_label: str
    series: list[Series]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    rules: list[tuple[float, float, float, float]]
    names: list[Name]
    said: str
    size: tuple[int, int] = (WIDTH, HEIGHT)
    frame: tuple[int, int, int, int] = field(default=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM))


@dataclass(frozen=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def of(cls, values: Iterable[float], start: float, end: float) -> Scale:
        """With a little room around the values."""
        found = list(values)
        low, high = min(found), max(found)
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(low - room, high + room, start, end)

    def at(self, value: float) -> float:
        """Rounded to a tenth of a pixel."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """At multiples of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
        values = [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [(self.at(value), f"{value:.10g}") for value in values]


def plot(
    title: str,
    labels: tuple[str, str],
    series: Sequence[Series],
    *,
    said: str,
    levels: Sequence[float] = (),
    diagonal: bool = False,
) -> Plot:
    """Lay out a plot.

    Args:
        title: above it.
        labels: of the lower and of the left axis.
        series: with at least one point, in values.
        said: the plot in a sentence.
        levels: horizontal lines.
        diagonal: a line where both values are the same.
    """
    points = [point for each in series for point in each.points()]
    x = Scale.of((at for at, _ in points), LEFT, WIDTH - RIGHT)
    y = Scale.of([*(at for _, at in points), *levels], HEIGHT - BOTTOM, TOP)
    rules = [(x.start, y.at(level), x.end, y.at(level)) for level in levels]
    if diagonal and (low := max(x.low, y.low)) < (high := min(x.high, y.high)):
        rules.append((x.at(low), y.at(low), x.at(high), y.at(high)))
    drawn = [
        Series(
            each.name,
            [(x.at(a), y.at(b), text) for a, b, text in each.dots[:: math.ceil(len(each.dots) / MOST_DOTS) or 1]],
            [(x.at(a), y.at(b)) for a, b in each.line],
            [(x.at(a), y.at(low), y.at(high)) for a, low, high in each.spans],
        )
        for each in series
    ]
    names = [name for each, laid in zip(series, drawn, strict=True) if each.named for name in _names(laid.dots)]
    return Plot(title, *labels, drawn, x.ticks(), y.ticks(), rules, names, said)


def _names(dots: Sequence[tuple[float, float, str]]) -> list[Name]:
    """Names that cover neither each other nor a dot; where there is no room a dot has none."""
    if len(dots) > MOST_NAMED:
        return []
    taken = [(x - 5, x + 5, y - 5, y + 5) for x, y, _ in dots]
    names = []
    for x, y, text in dots:
        length = LETTER * len(text)
        for start, name in ((x + 8, Name(x + 8, y, text, "start")), (x - 8 - length, Name(x - 8, y, text, "end"))):
            box = (start, start + length, y - LINE / 2, y + LINE / 2)
            free = all(box[1] < a or b < box[0] or box[3] < c or d < box[2] for a, b, c, d in taken)
            if free and start >= LEFT and start + length <= WIDTH:
                taken.append(box)
                names.append(name)
                break
    return names


def histogram(values: Sequence[float], bins: int = 20) -> list[int]:
    """Numbers of values, which lie between −1 and 1, in bins of equal width."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value + 1) / 2 * bins))] += 1
    return counts
