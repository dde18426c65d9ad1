"""Tables of scripts/field.py: LDS of every method against both truths, beside what a query costs.

Design decisions:
- The subsets of each kind are divided: every other one is the *tuning half*, on which a method with a grid has its
  setting chosen, and the others are the *reporting half*, the only one that figures are of, for all methods alike.
- A setting is chosen for each truth and number of dropped sources anew, which favours methods with large grids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_attr.evaluation import Estimate, lds, noise_ceiling
from scripts.report import Table, interval

Floats = NDArray[np.float64]
LEAST = 6  # subsets that a column needs: three in each half
CEILING = "noise ceiling"


@dataclass(frozen=True, eq=False)
class Setting:
    """A method with one of its settings.

    Attributes:
        predicted: (subsets, queries) predicted changes of the output.
        query: seconds of a query, in forward passes of it.
        bytes: kept of each source.
        preparation: seconds before the first query, in trainings.
    """

    predicted: Floats
    query: float
    bytes: float
    preparation: float


Methods = Mapping[str, Mapping[str, Setting]]


@dataclass(frozen=True, eq=False)
class Column:
    """A truth with so many sources dropped.

    Attributes:
        name: of the column.
        subsets: which they are, (n,).
        outputs: (seeds, n, queries) of the retrained models.
    """

    name: str
    subsets: NDArray[np.int64]
    outputs: Floats
    tuning: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tuning", np.arange(len(self.subsets)) % 2 == 0)

    def lds(self, setting: Setting, half: NDArray[np.bool_], resamples: int) -> Estimate:
        """On one half of the subsets."""
        return lds(setting.predicted[self.subsets[half]], self.outputs[:, half].mean(axis=0), resamples=resamples)

    def chosen(self, settings: Mapping[str, Setting]) -> str:
        """The setting that is best on the tuning half; the first of equals."""
        if len(settings) == 1:
            return next(iter(settings))
        return max(settings, key=lambda name: self.lds(settings[name], self.tuning, 1).value)

    def reported(self, setting: Setting) -> Estimate:
        """On the reporting half."""
        return self.lds(setting, ~self.tuning, 500)

    @property
    def ceiling(self) -> float | None:
        """On the reporting half; none for a truth of one run, which has no noise."""
        return noise_ceiling(self.outputs[:, ~self.tuning]) if len(self.outputs) > 1 else None


def columns(truth: str, sizes: NDArray[np.int64], outputs: Mapping[int, Floats]) -> list[Column]:
    """Of one truth, those that have enough subsets.

    Args:
        truth: its name.
        sizes: (subsets,) how many sources each drops.
        outputs: (seeds, queries) by subset, of those that are finished.
    """
    found = []
    for size in sorted(set(sizes.tolist())):
        there = [subset for subset in sorted(outputs) if sizes[subset] == size]
        if len(there) >= LEAST:
            stacked = np.stack([outputs[subset] for subset in there], axis=1)
            found.append(Column(f"{truth}, {size} dropped", np.array(there), stacked))
    return found


def tables(truth: str, found: list[Column], methods: Methods, note: str) -> tuple[Table, Table]:
    """The LDS of all methods against one truth with what they cost, and the settings that were chosen."""
    heads = ["method", *(column.name for column in found), "a query", "kept of a source", "preparation"]
    rows, settings = [], []
    ceilings = [column.ceiling for column in found]
    if any(ceiling is not None for ceiling in ceilings):
        rows.append([CEILING, *("" if ceiling is None else f"{ceiling:.2f}" for ceiling in ceilings), "", "", ""])
    for name, grid in methods.items():
        chosen = [column.chosen(grid) for column in found]
        of_columns = [column.reported(grid[choice]) for column, choice in zip(found, chosen, strict=True)]
        costs = [grid[choice] for choice in dict.fromkeys(chosen)]
        rows.append(
            [
                name,
                *(interval(one.value, one.low, one.high) for one in of_columns),
                between([cost.query for cost in costs], short),
                between([cost.bytes for cost in costs], size_in_words),
                between([cost.preparation for cost in costs], short),
            ]
        )
        if len(grid) > 1:
            settings.append([name, ", ".join(grid), *chosen])
    title = f"LDS [95 % interval] against {truth}; a query in forward passes of it; preparation in trainings of the run"
    fidelity = Table(title=title, columns=heads, rows=rows, note=note)
    grids = Table(
        title=f"Settings tried, and the one that was best on the tuning half, against {truth}",
        columns=["method", "tried", *(column.name for column in found)],
        rows=settings,
    )
    return fidelity, grids


def between(values: list[float], write: object) -> str:
    """One value, or the ends of a range."""
    assert callable(write)
    ends = list(dict.fromkeys([write(min(values)), write(max(values))]))
    return " to ".join(ends)


def short(value: float) -> str:
    """With two digits that matter; what was not measured is nan."""
    if math.isnan(value):
        return "not measured"
    if 0 < value < 0.01:
        return "< 0.01"
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def size_in_words(number: float) -> str:
    """Bytes as people say them."""
    return (
        f"{number:,.0f} B" if number < 1e4 else f"{number / 1e3:,.0f} kB" if number < 1e7 else f"{number / 1e6:,.0f} MB"
    )


def draw(found: list[Column], methods: Methods, file: Path) -> None:
    """A panel for each column: every method's LDS with its interval, and the ceiling."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "field"  # the same figures make the same file
    from matplotlib import pyplot as plt

    across = (len(found) + 1) // 2
    figure, axes = plt.subplots(
        2, across, figsize=(4 * across + 2, 0.5 * len(methods) + 2), sharex=True, sharey=True, squeeze=False
    )
    names = list(methods)[::-1]
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for axis, column in zip(axes.flat, found, strict=False):
        for height, name in enumerate(names):
            one = column.reported(methods[name][column.chosen(methods[name])])
            color = "C0" if name.startswith(("trajector", "damped trajector", "tangent", "checkpoint")) else "C1"
            axis.plot([one.low, one.high], [height, height], color=color, linewidth=2, alpha=0.5)
            axis.plot(one.value, height, "o" if color == "C0" else "s", color=color, markersize=5)
        if column.ceiling is not None:
            axis.axvline(column.ceiling, color="0.4", linestyle=":")
        axis.set_title(column.name, fontsize="medium")
        axis.set_yticks(range(len(names)), names, fontsize="small")
        axis.grid(alpha=0.3, axis="x")
    for axis in axes[-1]:
        axis.set_xlabel("LDS")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
