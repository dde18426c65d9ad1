"""What scripts/mlp_lds.py asks of which images, and the tables of the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_attr.evaluation import drop_subsets
from dist_attr.evaluation.baselines import Baseline, Ekfac, InfluenceCG, Similarity, TracIn, Trak
from scripts.mlp_data import load_images
from scripts.mlp_runs import Recipe
from scripts.mlp_tasks import Along, Bench, Exact, Library, Nudged, Plain, Retraced, Simulated, Task, Truth

CHECKPOINTS = 10  # of a run, over which an output is averaged
NUDGES = (1.0, 0.1, 0.01)  # by which one example's weight is lowered


@dataclass(frozen=True, eq=False)
class Question:
    """One kind of truth.

    Attributes:
        name: of its column.
        dropped: (subsets, examples).
        seeds: how many retrainings each subset has.
        fixed: they are the run of seed 0 itself without the subset; else every model has a seed of its own.
    """

    name: str
    dropped: NDArray[np.bool_]
    seeds: int
    fixed: bool

    def tasks(self) -> list[list[Truth]]:
        """By seed and subset."""
        subsets = [tuple(np.flatnonzero(row).tolist()) for row in self.dropped]
        return [
            [
                Truth(subset, 0 if self.fixed else 1_000 * (seed + 1) + number, self.fixed)
                for number, subset in enumerate(subsets)
            ]
            for seed in range(self.seeds)
        ]


@dataclass(frozen=True, eq=False)
class Protocol:
    """A bench with its questions and methods.

    Attributes:
        bench: what is trained.
        questions: columns of the table.
        ensembles: the numbers of runs that get a row, where a method has so many.
        libraries: other methods by name, with their settings.
        averaged: those of them that are averaged, over how many full runs, where most of them do better than in halves.
        horizons: of the simulations of all examples.
        checked: every so-manieth example is simulated at full horizon, to time it.
        curvatures: how much of the curvature counts in a derivative, and over how many half runs each is averaged.
        along: the same for derivatives of an output's mean over the checkpoints of a run.
    """

    bench: Bench
    questions: Sequence[Question]
    ensembles: tuple[int, ...]
    libraries: Mapping[str, tuple[Baseline, ...]]
    averaged: Mapping[str, int]
    horizons: tuple[int, ...]
    checked: int
    curvatures: Mapping[float, int]
    along: Mapping[float, int]

    def tasks(self) -> list[Task]:
        """What says most comes first, so that a part of it all is worth showing."""
        found: list[Task] = [Plain(0), Exact(0, False)]
        found += [Exact(0, True, curvature) for curvature in self.curvatures]
        found += [Along(0, True, curvature, CHECKPOINTS) for curvature in self.along]
        found += [truth for question in self.questions for truth in question.tasks()[0]]
        found += [Library(0, half, settings) for settings in self.libraries.values() for half in (True, False)]
        few, many = self.ensembles[1], max(*self.curvatures.values(), *self.along.values(), *self.averaged.values())
        found += [Nudged(0, example, less) for example in self.nudged for less in (0.0, *NUDGES)]
        found += [Simulated(0, half, None, self.checked) for half in (True, False)]
        found += [self.retraced(*run) for run in self.compared]
        found += [Simulated(0, half, horizon, 1) for horizon in self.horizons for half in (True, False)]
        found += self._runs(1, few)
        found += [truth for question in self.questions for row in question.tasks()[1:] for truth in row]
        return found + self._runs(few, many)

    def _runs(self, first: int, end: int) -> list[Task]:
        """Of some seeds, what is averaged."""
        found: list[Task] = []
        for seed in range(first, end):
            found += [Exact(seed, True, curvature) for curvature, runs in self.curvatures.items() if seed < runs]
            found += [
                Along(seed, True, curvature, CHECKPOINTS) for curvature, runs in self.along.items() if seed < runs
            ]
            found += [Library(seed, False, self.libraries[name]) for name, runs in self.averaged.items() if seed < runs]
        return found

    @property
    def compared(self) -> list[tuple[bool, float]]:
        """Whether of half, and what curvature counts: the runs whose simulation is compared with that in reverse."""
        return [*((True, curvature) for curvature in self.curvatures), (False, 1.0)]

    def retraced(self, half: bool, curvature: float) -> Retraced:
        """Of a few examples."""
        return Retraced(0, half, curvature, tuple(self.nudged))

    @property
    def nudged(self) -> range:
        """A few examples, whose weights are changed a little."""
        number = len(self.bench.images.train)
        return range(0, number, number // 4)


LIBRARIES: Mapping[str, tuple[Baseline, ...]] = {
    "TRAK": (Trak(512),),
    "gradient dot, cosine": (TracIn(), TracIn(cosine=True)),
    "EK-FAC": (Ekfac(1e-3), Ekfac(1e-2), Ekfac(1e-1)),
    "representation similarity": (Similarity("cosine"), Similarity("dot")),
    "IF-CG": (InfluenceCG(1e-2, fitted=500), InfluenceCG(1e-1, fitted=500)),
}


def digits(folder: Path, quick: bool) -> Protocol:
    """Small enough for a test: the same seed without 5 % and without half, and seeds of their own without half."""
    recipe = Recipe((64, 64, 10), epochs=2 if quick else 15, batch_size=50, rate=0.1, momentum=0.0)
    examples, queries, subsets = (100, 20, 6) if quick else (500, 200, 40)
    bench = Bench("digits", recipe, load_images("digits", examples, queries), folder)
    few, half = (drop_subsets(examples, subsets, number, 0) for number in (examples // 20, examples // 2))
    questions = [
        Question("this run, 5 % dropped", few, 1, fixed=True),
        Question("this run, half dropped", half, 1, fixed=True),
        Question("any such run, half dropped", half, 4, fixed=False),
    ]
    libraries = {
        **LIBRARIES,
        "TRAK": tuple(Trak(dimension) for dimension in ((16,) if quick else (32, 64, 128))),
    }
    averaged = {"TRAK": 2} if quick else {"TRAK": 10, "EK-FAC": 10, "IF-CG": 10}
    curvatures = {1.0: 2 if quick else 10}
    return Protocol(bench, questions, (1, 2) if quick else (1, 10), libraries, averaged, (5,), 1, curvatures, {})


def published(name: str) -> Callable[[Path, bool], Protocol]:
    """The protocol of MNIST and Fashion-MNIST."""

    def protocol(folder: Path, quick: bool) -> Protocol:
        recipe = Recipe((784, 128, 64, 10), epochs=5 if quick else 50, batch_size=64, rate=0.01)
        examples, queries, subsets = (200, 5, 6) if quick else (5000, 50, 60)
        bench = Bench(name, recipe, load_images(name, examples, queries), folder)
        questions = [
            Question("any such run, half dropped", drop_subsets(examples, subsets, examples // 2, 0), 4, fixed=False)
        ]
        if name == "mnist":
            alone = drop_subsets(examples, 6 if quick else 40, 1, 0)
            questions.append(Question("this run, one dropped", alone, 1, fixed=True))
            questions.append(Question("any such run, one dropped", alone, 1, fixed=False))
        libraries = {**LIBRARIES, "TRAK": (Trak(64),)} if quick else LIBRARIES
        if quick:
            return Protocol(
                bench, questions, (1, 2), libraries, {"TRAK": 2}, (), 40, {1.0: 2, 0.5: 2}, {1.0: 2, 0.5: 1}
            )
        averaged = {"TRAK": 50, "EK-FAC": 4, "IF-CG": 4}
        # The training of both is chaotic, Fashion-MNIST's much more.
        if name == "fashion":
            curvatures, along = {1.0: 10, 0.75: 1, 0.5: 10, 0.25: 4}, {1.0: 1, 0.75: 1, 0.5: 4, 0.25: 1}
        else:
            curvatures, along = {1.0: 10, 0.75: 1, 0.5: 10, 0.25: 1}, {1.0: 10, 0.75: 1, 0.5: 1}
        return Protocol(bench, questions, (1, 4, 10, 50), libraries, averaged, (), 250, curvatures, along)

    return protocol


PROTOCOLS: Mapping[str, Callable[[Path, bool], Protocol]] = {
    "digits": digits,
    "mnist": published("mnist"),
    "fashion": published("fashion"),
}
