"""Where the marks of a plot lie."""

from __future__ import annotations

import numpy as np
import pytest

from dist_attr.display.plots import LETTER, LINE, Axis, histogram, scatter


@pytest.mark.parametrize(
    "values", [[0.0], [3.0, 3.0], [-1e-9, 2e-9], [1e6, 1.3e6], [-0.3, 0.7], [0.1, 0.2, 0.3], [-5.0, -1.0]]
)
def test_an_axis_is_round_and_holds_everything(values: list[float]) -> None:
    axis = Axis.of(values)
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert axis.ticks[0] == pytest.approx(axis.low) and axis.ticks[-1] == pytest.approx(axis.high)
    assert 2 <= len(axis.ticks) <= 8 and axis.at(axis.low) == 0 and axis.at(axis.high) == 1
    steps = np.diff(axis.ticks)
    assert steps == pytest.approx(steps[0]) and f"{steps[0]:.0e}"[0] in "1235"


def test_a_histogram_counts_both_ends() -> None:
    assert histogram([-1.0, -0.99, 0.0, 0.999, 1.0], bins=4) == [2, 0, 1, 2]


def test_labels_cover_nothing() -> None:
    draw = np.random.default_rng(0)
    named = [(f"source number {i}", float(x), float(y)) for i, (x, y) in enumerate(draw.uniform(size=(30, 2)))]
    axis = Axis.of([0.0, 1.0])
    points = scatter(named, axis, axis, 380, 260)
    assert [point.name for point in points] == [name for name, _, _ in named]
    boxes = []
    for point, (_, x, y) in zip(points, named, strict=True):
        assert (point.x, point.y) == (380 * x, 260 * y)
        if point.label_x is not None:
            length = LETTER * len(point.name)
            left = point.label_x - (length if point.anchor == "end" else 0)
            boxes.append((left, left + length, point.y - LINE / 2, point.y + LINE / 2))
    assert 5 < len(boxes) < 30
    for number, (a, b, c, d) in enumerate(boxes):
        assert a >= 0
        for e, f, g, h in boxes[:number]:
            assert b <= e or f <= a or d <= g or h <= c


def test_too_many_points_have_no_labels() -> None:
    axis = Axis.of([0.0, 41.0])
    points = scatter([(str(i), float(i), float(i)) for i in range(41)], axis, axis, 380, 260)
    assert all(point.label_x is None for point in points)
