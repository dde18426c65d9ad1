"""What scripts/mlp_lds.py computes; each result is kept by the digest of all that decides it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dist_attr.evaluation import Kept, Workers
from dist_attr.evaluation.baselines import Baseline, classifier
from dist_attr.evaluation.kept import digest
from dist_attr.evaluation.tasks import gathered
from dist_attr.store import Place
from scripts.dial_tasks import record
from scripts.fidelity import progress_bars
from scripts.mlp_data import Images
from scripts.mlp_reverse import reversed_scores
from scripts.mlp_runs import Recipe, Run, log_odds, trained_on

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Bench:
    """What is trained on what, and where the results are kept."""

    name: str
    recipe: Recipe
    images: Images
    folder: Path

    @cached_property
    def fingerprint(self) -> str:
        """Of recipe and images."""
        arrays = [tensor.numpy() for tensor in vars(self.images).values()]
        return digest(asdict(self.recipe), *arrays, torch.__version__)

    @property
    def kept(self) -> Kept:
        """The finished results."""
        return Kept(Place(str(self.folder / "kept")))

    def run(self, seed: int, half: bool) -> Run:
        """One training."""
        return Run(self.recipe, self.images, seed, half)

    def found(self, task: Task) -> Any:
        """A task's result, None as long as there is none."""
        return self.kept.get(task.name(self))


class Task(Protocol):
    """Something to compute once."""

    def name(self, bench: Bench) -> str:
        """Digest of all that decides the result."""
        ...

    def compute(self, bench: Bench) -> NDArray[Any]:
        """The result."""
        ...


@dataclass(frozen=True)
class Named:
    """A task that its own fields and the bench decide."""

    def name(self, bench: Bench) -> str:
        """See `Task`."""
        return digest(type(self).__name__, bench.fingerprint, repr(self))


@dataclass(frozen=True)
class Truth(Named):
    """The queries' log-odds (queries,) after training without some examples.

    Attributes:
        dropped: the examples.
        seed: of the weights and the order.
        fixed: the very run of that seed without them, on the same batches; else as a model that never saw them.
    """

    dropped: tuple[int, ...]
    seed: int
    fixed: bool

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Train and ask."""
        images, there = bench.images, np.ones(len(bench.images.train), dtype=bool)
        there[list(self.dropped)] = False
        if self.fixed:
            model = bench.run(self.seed, half=False).retrained(torch.from_numpy(there).float())
        else:
            model = trained_on(bench.recipe, images, np.flatnonzero(there), self.seed)
        with torch.no_grad():
            return np.asarray(log_odds(model(images.test), images.test_labels).double().numpy())


@dataclass(frozen=True)
class Nudged(Named):
    """The queries' log-odds (queries,) after a full run in which one example weighs a little less, in plain torch."""

    seed: int
    example: int
    less: float

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Train and ask."""
        run = bench.run(self.seed, half=False)
        weights = run.weights.clone()
        weights[self.example] -= self.less
        theta = run.step.space.read(run.retrained(weights))
        return np.asarray(run.log_odds(theta).double().numpy())


@dataclass(frozen=True)
class Exact(Named):
    """The tangents' scores at full horizon, computed in reverse: record of `scores` (queries, examples), `seconds`."""

    seed: int
    half: bool
    curvature: float = 1.0  # less than 1 is not exact

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Train, and go back through it."""
        started = time.process_time()
        scores = reversed_scores(bench.run(self.seed, self.half), self.curvature)
        return record({"scores": scores, "seconds": spent(started)})


@dataclass(frozen=True)
class Along(Named):
    """As `Exact`, of the log-odds' mean over checkpoints of the run."""

    seed: int
    half: bool
    curvature: float
    checkpoints: int

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Train, and go back through it."""
        started = time.process_time()
        scores = reversed_scores(bench.run(self.seed, self.half), self.curvature, checkpoints=self.checkpoints)
        return record({"scores": scores, "seconds": spent(started)})


@dataclass(frozen=True)
class Simulated(Named):
    """The tangent simulator's own: record of `scores` (queries, chosen examples), `seconds`, `reading` of all."""

    seed: int
    half: bool
    horizon: int | None
    every: int  # which examples: each so-manieth

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Simulate, and read out with forward passes."""
        run, started = bench.run(self.seed, self.half), time.process_time()
        simulator = run.simulated(list(range(0, len(bench.images.train), self.every)), self.horizon)
        seconds, started = spent(started), time.process_time()
        return record({"scores": run.read_out(simulator), "seconds": seconds, "reading": spent(started)})


@dataclass(frozen=True)
class Retraced(Named):
    """The simulator's scores, and in reverse along the very run it went through: record of `scores` and `reversed`.

    Both are (queries, examples), of the first few queries.
    """

    seed: int
    half: bool
    curvature: float
    examples: tuple[int, ...]
    queries: int = 5

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Simulate, and go back."""
        run, path = bench.run(self.seed, self.half), list[torch.Tensor]()
        simulator = run.simulated(list(self.examples), None, self.curvature, path)
        scores = reversed_scores(run, self.curvature, along=path, queries=self.queries)
        return record({"scores": run.read_out(simulator)[: self.queries], "reversed": scores[:, list(self.examples)]})


@dataclass(frozen=True)
class Library(Named):
    """Another method at the end of a run: record of `scores` (settings, queries, examples), `seconds` (settings,).

    Scores are brought from log p to log-odds, so that a mean over runs is not that of the least certain run alone.
    """

    seed: int
    half: bool
    settings: tuple[Baseline, ...]

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Train, then score."""
        # Before anything is timed: they take seconds to import, a worker's first time.
        import dattri.algorithm  # noqa: F401
        import kronfluence  # noqa: F401

        run, images = bench.run(self.seed, self.half), bench.images
        model = run.retrained(run.weights)
        there = run.weights > 0  # a library knows no weights: it is given what the model was trained on
        examples = (
            (images.train[there], images.train_labels[there]) if self.half else (images.train, images.train_labels)
        )
        trained = classifier(model, [model.state_dict()], examples, (images.test, images.test_labels))
        with torch.no_grad():
            odds = log_odds(model(images.test), images.test_labels).double().numpy()
        scores, seconds = [], []
        for baseline in self.settings:
            started, all_of = time.process_time(), np.zeros((len(images.test), len(images.train)))
            all_of[:, there.numpy()] = baseline(trained)
            scores.append(all_of * (1 + np.exp(odds))[:, None])
            seconds.append(spent(started))
        return record({"scores": np.array(scores), "seconds": np.array(seconds)})


@dataclass(frozen=True)
class Plain(Named):
    """Seconds of the processor, as a record: `training` once; of all queries `forward`, `gradient` and `product`.

    The product is that of the queries' gradients with one vector of the parameters for each example, which is what a
    method without projection does of them.
    """

    seed: int

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Train."""
        run = bench.run(self.seed, half=False)
        model = run.retrained(run.weights)  # the first steps of a process are slow
        started = time.process_time()
        run.retrained(run.weights)
        training, started = spent(started), time.process_time()
        with torch.no_grad():
            for _ in range(100):
                model(bench.images.test)
        forward, started = spent(started) / 100, time.process_time()
        theta = run.step.space.read(model)
        gradients = torch.func.vmap(torch.func.grad(lambda theta, one: one @ run.log_odds(theta)), in_dims=(None, 0))(
            theta, torch.eye(len(bench.images.test))
        )
        gradient, vectors = spent(started), torch.randn(len(bench.images.train), len(theta))
        started = time.process_time()
        gradients @ vectors.T
        return record({"training": training, "forward": forward, "gradient": gradient, "product": spent(started)})


def spent(started: float) -> float:
    """Seconds of the processor since then."""
    return time.process_time() - started


def compute(bench: Bench, tasks: Sequence[Task], workers: int) -> None:
    """All that is not kept yet, by that many Ray tasks at once."""
    with progress_bars() as bars:
        bar = bars.add_task(f"{bench.name}: retrainings, simulations, other methods", total=len(tasks))
        gathered(
            work,
            bench,
            [(task,) for task in tasks],
            names=[task.name(bench) for task in tasks],
            kept=bench.kept,
            workers=Workers(workers),
            on_done=lambda *_: bars.update(bar, advance=1),
        )


def work(bench: Bench, task: Task) -> NDArray[Any]:
    """One result; in a process of its own, with one thread."""
    torch.set_num_threads(1)
    return task.compute(bench)
