"""What scripts/dial.py and scripts/field.py compute: simulations with their cost, and retrained models.

Each is a Ray task whose result is kept in a file of its own, named by all that decides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scripts.dial_simulations import CHECKPOINTS, gradient_scores, simulated_scores
from scripts.fidelity import progress_bars

if TYPE_CHECKING:
    from dist_attr.config import TokenizerConfig
    from dist_attr.evaluation import Kept, Retraining


@dataclass(frozen=True, eq=False)
class Bench:
    """What is trained, asked and dropped, for every seed, and where the results are kept.

    Attributes:
        retraining: the run; its seed is replaced.
        dropped: (subsets, sources), true where a retrained model goes without the source.
        folder: of the results.
        tokenizer: the run's.
        levers: curves of scripts/dial.py that make sense for it, against the first truth; none means everything.
    """

    retraining: Retraining
    dropped: NDArray[np.bool_]
    folder: Path
    tokenizer: str | TokenizerConfig
    levers: tuple[str, ...] = ()

    @property
    def kept(self) -> Kept:
        """The finished results."""
        from dist_attr.evaluation import Kept
        from dist_attr.store import Place

        return Kept(Place(str(self.folder / "kept")))

    def at(self, seed: int) -> Retraining:
        """The same with other initial weights and another batch order."""
        return self.retraining.at(seed)

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
class Truth:
    """Retrain without one subset of the sources: outputs (queries,), in nats."""

    seed: int
    subset: int

    def weights(self, bench: Bench) -> list[float]:
        """Of the sources."""
        kept: list[float] = (1.0 - bench.dropped[self.subset]).tolist()
        return kept

    def name(self, bench: Bench) -> str:
        """The one that `dist_attr.evaluation.retrained_outputs` gives it."""
        from dist_attr.evaluation.kept import digest

        return digest(bench.retraining.fingerprint, self.seed, self.weights(bench))

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Train and ask."""
        return bench.at(self.seed).outputs(self.weights(bench))


@dataclass(frozen=True)
class Simulation:
    """Simulate all sources beside a run and read out all queries.

    The result is a record: `linear` and, of replicas, `counterfactual` (queries, sources), `cost`, `plain_seconds`.

    Attributes:
        seed: of the run.
        setting: the method and what is not as in the exact simulation, as in "tangent stride=2 curvature_share=0.5";
            a window is a share of the steps; "gradient checkpoints=4" is the gradient dot product.
    """

    seed: int
    setting: str

    def name(self, bench: Bench) -> str:
        """Digest of run and setting."""
        from dist_attr.evaluation.kept import digest

        return digest("simulation", bench.retraining.fingerprint, self.seed, self.setting)

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Simulate and read out."""
        method, settings = parse(self.setting)
        retraining = bench.at(self.seed)
        if method == "gradient":
            return record(gradient_scores(retraining, int(settings.get(CHECKPOINTS, 1))))
        return record(simulated_scores(retraining, method, settings))


def record(values: dict[str, Any]) -> NDArray[Any]:
    """Arrays and numbers under their names as one array, which is what a file holds."""
    arrays = {name: np.asarray(value) for name, value in values.items()}
    kinds = [(name, array.dtype, array.shape) for name, array in arrays.items()]
    return np.array(tuple(arrays.values()), dtype=kinds)


def computed(bench: Bench, tasks: Sequence[Task], workers: int) -> list[NDArray[Any]]:
    """All results; what is not kept yet is computed by that many Ray tasks at once, one thread each."""
    from dist_attr.evaluation import Workers
    from dist_attr.evaluation.tasks import gathered

    with progress_bars() as bars:
        bar = bars.add_task("simulations and retrainings", total=len(tasks))
        return gathered(
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
    import torch

    torch.set_num_threads(1)
    return task.compute(bench)


def parse(setting: str) -> tuple[str, dict[str, float]]:
    method, *parts = setting.split()
    return method, {name: float(value) for name, value in (part.split("=") for part in parts)}
