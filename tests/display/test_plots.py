"""Where the marks of a plot go."""

from __future__ import annotations

import numpy as np
import pytest

from dist_attr.display.plots import LETTER, LINE, MOST_DOTS, MOST_NAMED, Scale, Series, histogram, plot


@pytest.mark.parametrize(
    "values", [(0.0, 1.0), (-3.7, 12.2), (1e-7, 3e-7), (1999.0, 2001.0), (5.0, 5.0), (0.0, 0.0), (-2.0, -2.0)]
)
def test_ticks_are_round_and_lie_on_the_axis(values: tuple[float, float]) -> None:
    scale = Scale.of(values, 50, 400)
    assert all(50 < scale.at(value) < 400 for value in values)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 7 and len({text for _, text in ticks}) == len(ticks)
    for place, text in ticks:
        assert 50 <= place <= 400 and place == pytest.approx(scale.at(float(text)), abs=0.1)


def test_marks_lie_in_the_frame_and_up_is_more() -> None:
    series = Series("a", dots=[(0, -1, "low"), (2, 3, "high")], line=[(1, 1)], spans=[(1, -4, 5)])
    drawn = plot("t", ("x", "y"), [series], said="s", levels=[8.0], diagonal=True)
    left, top, right, bottom = drawn.frame
    (found,) = drawn.series
    assert all(left < x < right and top < y < bottom for x, y in found.points())
    (x0, y0, _), (x1, y1, text) = found.dots
    assert x0 < x1 and y0 > y1 and text == "high"
    level, diagonal = drawn.rules
    assert top < level[1] == level[3] < found.spans[0][2]
    assert diagonal[0] < diagonal[2] and diagonal[1] > diagonal[3]


def test_of_very_many_dots_some_are_drawn() -> None:
    dots = [(float(n), 0.0, "") for n in range(3 * MOST_DOTS - 1)]
    (found,) = plot("t", ("x", "y"), [Series("a", dots=dots)], said="s").series
    assert MOST_DOTS / 2 < len(found.dots) <= MOST_DOTS


def test_names_cover_nothing() -> None:
    draw = np.random.default_rng(0)
    dots = [(float(x), float(y), f"source number {i}") for i, (x, y) in enumerate(draw.uniform(size=(30, 2)))]
    drawn = plot("t", ("x", "y"), [Series("a", dots=dots, named=True), Series("b", dots=[(0.5, 0.5, "no")])], said="s")
    left, _, right, _ = drawn.frame
    places = {text: (x, y) for x, y, text in drawn.series[0].dots}
    boxes = []
    for x, y, text, anchor in drawn.names:
        assert (x, y) == (places[text][0] + (8 if anchor == "start" else -8), places[text][1])
        start = x - (LETTER * len(text) if anchor == "end" else 0)
        boxes.append((start, start + LETTER * len(text), y - LINE / 2, y + LINE / 2))
    assert 5 < len(boxes) < 30
    for number, (a, b, c, d) in enumerate(boxes):
        assert a >= left and b <= right + 12
        assert all(b <= x - 5 or x + 5 <= a or d <= y - 5 or y + 5 <= c for x, y in places.values())
        assert all(b <= e or f <= a or d <= g or h <= c for e, f, g, h in boxes[:number])


def test_too_many_dots_have_no_names() -> None:
    dots = [(float(i), float(i), str(i)) for i in range(MOST_NAMED + 1)]
    assert plot("t", ("x", "y"), [Series("a", dots=dots, named=True)], said="s").names == []
    assert plot("t", ("x", "y"), [Series("a", dots=dots[1:], named=True)], said="s").names


def test_a_histogram_counts_both_ends() -> None:
    assert histogram([-1.0, -0.99, 0.0, 0.999, 1.0], bins=4) == [2, 0, 1, 2]
