"""The tables of scripts/mlp_lds.py: LDS of every method beside its costs, and what is to be known of the runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dist_attr.evaluation import predicted_change
from dist_attr.evaluation.baselines import Baseline, InfluenceCG, Similarity, Trak
from scripts.field_table import Column, Setting, tables
from scripts.mlp_protocols import CHECKPOINTS, NUDGES, Protocol, Question
from scripts.mlp_runs import Floats
from scripts.mlp_tasks import Along, Bench, Exact, Library, Nudged, Plain, Simulated
from scripts.report import Table


@dataclass(frozen=True, eq=False)
class Tables:
    """Those of one protocol."""

    protocol: Protocol

    @property
    def bench(self) -> Bench:
        """What was computed."""
        return self.protocol.bench

    def all(self) -> dict[str, Table]:
        """Of what there is."""
        columns = [column for question, start in self._starts() for column in self._columns(question, start)]
        methods = {name: grid for name, grid in self._methods() if grid}
        numbers = ", ".join(f"{len(question.dropped)} for {question.name}" for question in self.protocol.questions)
        note = (
            f"{len(self.bench.images.test)} queries, {len(self.bench.images.train)} examples, each a source. Subsets: "
            f"{numbers}; figures are of every second one, the others were for choosing settings."
        )
        fidelity, grids = tables("retraining", columns, methods, note)
        return {"lds": fidelity, "settings": grids, "check": self._check(), "nudges": self._nudges()}

    def _starts(self) -> Iterator[tuple[Question, int]]:
        """Questions with where their subsets begin among all."""
        start = 0
        for question in self.protocol.questions:
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
            exact = [
                self.bench.found(Exact(seed, half)) for seed in range(self.protocol.curvatures[1.0] if half else 1)
            ]
            for number in self.protocol.ensembles:
                if all(one is not None for one in exact[:number]) and len(exact) >= number:
                    scores = np.mean([one["scores"] for one in exact[:number]], axis=0)
                    yield (
                        f"tangents, exact, {where}" + (f", mean of {number}" if number > 1 else ""),
                        {"": self._setting(scores, number * reading, number * self._parameters, number * seconds)},
                    )
            if half:
                damped = [curvature for curvature in self.protocol.curvatures if curvature < 1]
                yield from self._by_curvature("tangents, damped, half run", damped, seconds, reading)
                at = f"tangents at {CHECKPOINTS} checkpoints, half run"
                yield from self._by_curvature(at, list(self.protocol.along), seconds, reading, CHECKPOINTS)
            for horizon in self.protocol.horizons:
                if (one := self.bench.found(Simulated(0, half, horizon, 1))) is not None:
                    of_horizon = self._simulation(half, horizon)
                    setting = self._setting(one["scores"], of_horizon[1], self._parameters, of_horizon[0])
                    yield f"tangents, horizon {horizon}, {where}", {"": setting}
        for name, settings in self.protocol.libraries.items():
            for half in (True, False):
                found = [
                    self.bench.found(Library(seed, half, settings))
                    for seed in range(1 if half else self.protocol.averaged.get(name, 1))
                ]
                for number in self.protocol.ensembles:
                    if all(one is not None for one in found[:number]) and len(found) >= number:
                        where = ("half run" if half else "full run") + (f", mean of {number}" if number > 1 else "")
                        yield f"{name}, {where}", self._grid(settings, found[:number])

    def _by_curvature(
        self, name: str, curvatures: Sequence[float], seconds: float, reading: float, checkpoints: int = 1
    ) -> Iterator[tuple[str, dict[str, Setting]]]:
        """Tangents of half runs by how much their curvature counts; simulated at the cost of exact ones."""
        for number in self.protocol.ensembles:
            grid = {}
            for curvature in curvatures:
                tasks = [
                    Exact(seed, True, curvature) if checkpoints == 1 else Along(seed, True, curvature, checkpoints)
                    for seed in range(number)
                ]
                found = [self.bench.found(task) for task in tasks]
                if all(one is not None for one in found):
                    scores, times = np.mean([one["scores"] for one in found], axis=0), number * checkpoints
                    costs = times * reading, times * self._parameters, number * seconds
                    grid[f"curvature × {curvature:g}"] = self._setting(scores, *costs)
            yield name + (f", mean of {number}" if number > 1 else ""), grid

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
        one = self.bench.found(Simulated(0, half, horizon, self.protocol.checked if horizon is None else 1))
        if one is None:
            return np.nan, np.nan
        times = len(self.bench.images.train) / one["scores"].shape[1]
        return times * float(one["seconds"]), times * float(one["reading"])

    def _nudges(self) -> Table:
        """How far the outputs of one run move when an example weighs less, beside what its derivative says."""
        rows, exact = [], self.bench.found(Exact(0, False))
        for less in NUDGES:
            pairs = [[self.bench.found(Nudged(0, one, by)) for by in (0.0, less)] for one in self.protocol.nudged]
            if exact is None or any(one is None for pair in pairs for one in pair):
                continue
            true = np.array([after - before for before, after in pairs])
            said = -less * exact["scores"][:, list(self.protocol.nudged)].T
            agreement = np.corrcoef(said.ravel(), true.ravel())[0, 1]
            rows.append(
                [f"{less:g}", *(f"{np.sqrt(np.mean(each**2)):.1e}" for each in (true, said)), f"{agreement:.2f}"]
            )
        title = "Change of log-odds when one example weighs less in a full run, root mean square over queries"
        columns = ["less weight", "retrained", "derivative", "correlation"]
        return Table(
            title=title, columns=columns, rows=rows, note=f"{len(self.protocol.nudged)} examples, the same seed."
        )

    def _check(self) -> Table:
        """The derivative in reverse against the simulator's, through the same run and through the same once more."""
        rows = []
        for half, curvature in self.protocol.compared:
            task = self.protocol.retraced(half, curvature)
            exact, both = self.bench.found(Exact(0, half, curvature)), self.bench.found(task)
            if exact is None or both is None:
                continue
            simulated, again = both["scores"], exact["scores"][: task.queries, list(task.examples)]
            errors = [np.abs(other - simulated).max() / np.abs(simulated).max() for other in (both["reversed"], again)]
            run = ("half run" if half else "full run") + (f", curvature × {curvature:g}" if curvature < 1 else "")
            rows.append([run, *(f"{error:.1e}" for error in errors)])
        return Table(
            title="Largest difference of the derivative in reverse from the simulator's, as a share of the largest",
            columns=["run", "through the same run", "through the same run computed once more"],
            rows=rows,
            note=f"{len(self.protocol.nudged)} examples.",
        )

    @property
    def _parameters(self) -> int:
        widths = self.bench.recipe.widths
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))

    def _setting(self, scores: Floats, reading: float, numbers: float, seconds: float) -> Setting:
        """Predictions for all subsets; numbers of 4 bytes kept of an example, seconds of the processor."""
        plain = self.bench.found(Plain(0))
        predicted = np.concatenate([predicted_change(scores, question.dropped) for question in self.protocol.questions])
        return Setting(
            predicted,
            query=reading / float(plain["forward"]),
            bytes=4.0 * numbers,
            preparation=seconds / float(plain["training"]),
        )
