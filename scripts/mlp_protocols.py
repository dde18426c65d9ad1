"""What scripts/mlp_lds.py asks of which images, and the tables of the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_attr.evaluation import drop_subsets, predicted_change
from dist_attr.evaluation.baselines import Baseline, Ekfac, InfluenceCG, Similarity, TracIn, Trak
from scripts.field_table import Column, Setting, tables
from scripts.mlp_data import load_images
from scripts.mlp_runs import Floats, Recipe
from scripts.mlp_tasks import Bench, Exact, Library, Nudged, Plain, Simulated, Task, Truth
from scripts.report import Table


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
        runs: how many of each kind are averaged at most.
        ensembles: the numbers of runs that get a row.
        libraries: other methods by name, with their settings.
        averaged: those of them that are averaged, over how many full runs, where most of them do better than in halves.
        horizons: of the simulations of all examples.
        checked: every so-manieth example is simulated at full horizon and compared with the derivative in reverse.
    """

    bench: Bench
    questions: Sequence[Question]
    ensembles: tuple[int, ...]
    libraries: Mapping[str, tuple[Baseline, ...]]
    averaged: Mapping[str, int]
    horizons: tuple[int, ...]
    checked: int

    def tasks(self) -> list[Task]:
        """What says most comes first, so that a part of it all is worth showing."""
        found: list[Task] = [Plain(0), Exact(0, True), Exact(0, False)]
        found += [truth for question in self.questions for truth in question.tasks()[0]]
        found += [Library(0, half, settings) for settings in self.libraries.values() for half in (True, False)]
        few, many = self.ensembles[1], self.ensembles[-1]
        found += [Nudged(0, example, less) for example in self._nudged for less in (0.0, *NUDGES)]
        found += self._runs(1, few)
        found += [Simulated(0, half, None, self.checked) for half in (True, False)]
        found += [Simulated(0, half, horizon, 1) for horizon in self.horizons for half in (True, False)]
        found += [truth for question in self.questions for row in question.tasks()[1:] for truth in row]
        return found + self._runs(few, many)

    def _runs(self, first: int, end: int) -> list[Task]:
        """Of some seeds, what is averaged."""
        found: list[Task] = []
        for seed in range(first, end):
            found.append(Exact(seed, True))
            found += [Library(seed, False, self.libraries[name]) for name, runs in self.averaged.items() if seed < runs]
        return found

    def tables(self) -> dict[str, Table]:
        """Of what there is."""
        columns = [column for question, start in self._starts() for column in self._columns(question, start)]
        methods = {name: grid for name, grid in self._methods() if grid}
        numbers = ", ".join(f"{len(question.dropped)} for {question.name}" for question in self.questions)
        note = (
            f"{len(self.bench.images.test)} queries, {len(self.bench.images.train)} examples, each a source. Subsets: "
            f"{numbers}; figures are of every second one, the others were for choosing settings."
        )
        fidelity, grids = tables("retraining", columns, methods, note)
        return {"lds": fidelity, "settings": grids, "check": self._check(), "nudges": self._nudges()}

    def _starts(self) -> Iterator[tuple[Question, int]]:
        """Questions with where their subsets begin among all."""
        start = 0
        for question in self.questions:
            yield question, start
            start += len(question.dropped)

    def _columns(self, question: Question, start: int) -> Iterator[Column]:
        """One seed alone, as published, and the mean of all where there are several."""
        subsets, outputs = start + np.arange(len(question.dropped)), []
        for row in question.tasks():
            found = [self.bench.found(task) for task in row]
            if any(one is None for one in found):
                break
            outputs.append(found)
        if outputs:
            yield Column(question.name + ("" if question.fixed else ", one seed"), subsets, np.array(outputs[:1]))
        if len(outputs) >= 4:
            yield Column(f"{question.name}, mean of {len(outputs)} seeds", subsets, np.array(outputs))

    def _methods(self) -> Iterator[tuple[str, dict[str, Setting]]]:
        """Rows of the table."""
        for half in (True, False):
            where = "half run" if half else "full run"
            seconds, reading = self._simulation(half, None)
            exact = [self.bench.found(Exact(seed, half)) for seed in range(self.ensembles[-1] if half else 1)]
            for number in self.ensembles:
                if all(one is not None for one in exact[:number]) and len(exact) >= number:
                    scores = np.mean([one["scores"] for one in exact[:number]], axis=0)
                    yield (
                        f"tangents, exact, {where}" + (f", mean of {number}" if number > 1 else ""),
                        {"": self._setting(scores, number * reading, number * self._parameters, number * seconds)},
                    )
            for horizon in self.horizons:
                if (one := self.bench.found(Simulated(0, half, horizon, 1))) is not None:
                    of_horizon = self._simulation(half, horizon)
                    setting = self._setting(one["scores"], of_horizon[1], self._parameters, of_horizon[0])
                    yield f"tangents, horizon {horizon}, {where}", {"": setting}
        for name, settings in self.libraries.items():
            for half in (True, False):
                found = [
                    self.bench.found(Library(seed, half, settings))
                    for seed in range(1 if half else self.averaged.get(name, 1))
                ]
                for number in self.ensembles:
                    if all(one is not None for one in found[:number]) and len(found) >= number:
                        where = ("half run" if half else "full run") + (f", mean of {number}" if number > 1 else "")
                        yield f"{name}, {where}", self._grid(settings, found[:number])

    def _grid(self, settings: Sequence[Baseline], found: Sequence[NDArray[np.void]]) -> dict[str, Setting]:
        grid = {}
        for i, baseline in enumerate(settings):
            scores = np.mean([one["scores"][i] for one in found], axis=0)
            seconds = sum(float(one["seconds"][i]) for one in found)
            query, kept = self._asked(baseline)
            grid[repr(baseline)] = self._setting(scores, query * len(found), kept * len(found), seconds)
        return grid

    def _asked(self, baseline: Baseline) -> tuple[float, float]:
        """Seconds for all queries once everything that has no part in them is cached, and numbers kept of an example.

        By what a method has to do: the query's gradient and its product with what is kept; TRAK projects it first;
        conjugate gradients take products with a Hessian for each query, each counted as two and a third gradients.
        """
        plain, parameters = self.bench.found(Plain(0)), self._parameters
        gradient, product = float(plain["gradient"]), float(plain["product"])
        match baseline:
            case Similarity():
                return float(plain["forward"]), self.bench.recipe.widths[-2]
            case Trak(dimension=dimension):
                share = dimension / len(self.bench.images.train) + dimension / parameters
                return gradient + share * product, dimension
            case InfluenceCG(iterations=iterations, fitted=fitted):
                # A step of the training is a gradient of one batch.
                steps = self.bench.recipe.epochs * len(self.bench.images.train)
                of_example = float(plain["training"]) / steps
                products = 7 / 3 * (iterations + 1) * fitted * of_example * len(self.bench.images.test)
                return gradient + product + products, parameters
            case _:
                return gradient + product, parameters

    def _simulation(self, half: bool, horizon: int | None) -> tuple[float, float]:
        """Seconds of simulating all examples and of reading all of them out, from those that were simulated."""
        one = self.bench.found(Simulated(0, half, horizon, self.checked if horizon is None else 1))
        if one is None:
            return np.nan, np.nan
        times = len(self.bench.images.train) / one["scores"].shape[1]
        return times * float(one["seconds"]), times * float(one["reading"])

    @property
    def _nudged(self) -> range:
        """A few examples."""
        number = len(self.bench.images.train)
        return range(0, number, number // 4)

    def _nudges(self) -> Table:
        """How far the outputs of one run move when an example weighs less, beside what its derivative says."""
        rows, exact = [], self.bench.found(Exact(0, False))
        for less in NUDGES:
            pairs = [[self.bench.found(Nudged(0, one, by)) for by in (0.0, less)] for one in self._nudged]
            if exact is None or any(one is None for pair in pairs for one in pair):
                continue
            true = np.array([after - before for before, after in pairs])
            said = -less * exact["scores"][:, list(self._nudged)].T
            agreement = np.corrcoef(said.ravel(), true.ravel())[0, 1]
            rows.append(
                [f"{less:g}", *(f"{np.sqrt(np.mean(each**2)):.1e}" for each in (true, said)), f"{agreement:.2f}"]
            )
        title = "Change of log-odds when one example weighs less in a full run, root mean square over queries"
        columns = ["less weight", "retrained", "derivative", "correlation"]
        return Table(title=title, columns=columns, rows=rows, note=f"{len(self._nudged)} examples, the same seed.")

    def _check(self) -> Table:
        """The derivative in reverse against the simulator's."""
        rows = []
        for half in (True, False):
            exact, some = self.bench.found(Exact(0, half)), self.bench.found(Simulated(0, half, None, self.checked))
            if exact is not None and some is not None:
                same = exact["scores"][:, :: self.checked]
                error = np.abs(same - some["scores"]).max() / np.abs(same).max()
                rows.append(["half run" if half else "full run", str(same.shape[1]), f"{error:.1e}"])
        title = "Largest difference of the simulator's scores from the derivative in reverse, as a share of the largest"
        return Table(title=title, columns=["run", "examples compared", "difference"], rows=rows)

    @property
    def _parameters(self) -> int:
        widths = self.bench.recipe.widths
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))

    def _setting(self, scores: Floats, reading: float, numbers: float, seconds: float) -> Setting:
        """Predictions for all subsets; numbers of 4 bytes kept of an example, seconds of the processor."""
        plain = self.bench.found(Plain(0))
        predicted = np.concatenate([predicted_change(scores, question.dropped) for question in self.questions])
        return Setting(
            predicted,
            query=reading / float(plain["forward"]),
            bytes=4.0 * numbers,
            preparation=seconds / float(plain["training"]),
        )


NUDGES = (1.0, 0.1, 0.01)  # by which one example's weight is lowered
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
    return Protocol(bench, questions, (1, 2) if quick else (1, 10), libraries, averaged, (5,), checked=1)


def published(name: str) -> Callable[[Path, bool], Protocol]:
    """The protocol of MNIST and Fashion-MNIST."""

    def protocol(folder: Path, quick: bool) -> Protocol:
        recipe = Recipe((784, 128, 64, 10), epochs=1 if quick else 50, batch_size=64, rate=0.01)
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
        ensembles, every = ((1, 2), 40) if quick else ((1, 4, 10), 250)
        averaged = {"TRAK": 2} if quick else {"TRAK": 10, "EK-FAC": 4, "IF-CG": 4}
        return Protocol(bench, questions, ensembles, libraries, averaged, horizons=(), checked=every)

    return protocol


PROTOCOLS: Mapping[str, Callable[[Path, bool], Protocol]] = {
    "digits": digits,
    "mnist": published("mnist"),
    "fashion": published("fashion"),
}
