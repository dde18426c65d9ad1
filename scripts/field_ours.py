"""What scripts/field.py computes with dist_attr: simulations that scripts/dial.py does not know.

Each task's result is a record, kept by the digest of all that decides it (scripts/dial_tasks.py).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scripts.dial_simulations import Displaced, in_turns, read_out, simulate
from scripts.dial_tasks import Bench, record

if TYPE_CHECKING:
    from torch import Tensor

    from dist_attr.evaluation import Retraining


class Named:
    """The name of a task that is a dataclass: its class and fields, the run, and the subsets."""

    def name(self, bench: Bench) -> str:
        """Digest of all that decides the result."""
        from dist_attr.evaluation.kept import digest

        return digest(repr(self), bench.retraining.fingerprint, bench.dropped)


@dataclass(frozen=True)
class Grouped(Named):
    """The trajectory simulation, read out for each subset with the displacements of its sources together.

    The record: `grouped` (queries, subsets), the predicted change of the output in nats; `seconds`, `plain_seconds`.
    """

    seed: int

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Simulate and read out."""
        import torch

        run = bench.at(self.seed)
        found = simulate(run, "trajectory", {})
        together = torch.from_numpy(bench.dropped).to(found.tangents) @ found.tangents
        lost = read_out(run, run.start(), Displaced(found.parameters, together), 1.0)["counterfactual"]
        return record({"grouped": -lost, "seconds": found.seconds, "plain_seconds": found.plain_seconds})


@dataclass(frozen=True)
class Halves(Named):
    """Trajectories beside runs of a random half of the sources, and of the other half.

    A source that is in the half has a replica without it, and one that is not a replica with it: what a source is worth
    in a company of half the size. The mean over all subsets is its Banzhaf value, the coefficient of the linear model
    that comes nearest to the outputs over random subsets. Two halves that complement each other give exactly that where
    sources act on the outputs at most in pairs; what more of them do together is averaged over.

    The record: `linear` and `counterfactual` (queries, sources), `seconds` and `plain_seconds`.

    Attributes:
        seed: of the run, and of the first half; which half it is depends on nothing else.
        pairs: of halves that complement each other, so that each source is as often in as out.
    """

    seed: int
    pairs: int = 1

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Simulate and read out, half by half."""
        run = bench.at(self.seed)
        found = [in_company(run, half) for half in halves(len(run.corpus.sources), self.pairs, self.seed)]
        means = {name: np.mean([one[name] for one in found], axis=0) for name in ("linear", "counterfactual")}
        seconds = sum(one["seconds"] for one in found)
        plain = float(np.mean([one["plain_seconds"] for one in found]))
        return record({**means, "seconds": seconds, "plain_seconds": plain})


def halves(sources: int, pairs: int, seed: int) -> list[NDArray[np.bool_]]:
    """Random halves, each followed by what it leaves out; (sources,) each."""
    draw, found = np.random.default_rng([seed, 7]), []
    for _ in range(pairs):
        half = np.zeros(sources, dtype=bool)
        half[draw.permutation(sources)[: sources // 2]] = True
        found += [half, ~half]
    return found


def in_company(run: Retraining, present: NDArray[np.bool_]) -> dict[str, Any]:
    """Scores (queries, sources) of all sources in the run that has only some of them.

    Args:
        run: whose weights are replaced.
        present: (sources,), those that the run has.
    """
    import torch

    weights, scores = torch.from_numpy(present.astype(np.float32)), dict[str, NDArray[np.float64]]()
    seconds = plain = 0.0
    # A replica's weight is ε below the run's: 1 takes away a source that is there, −1 adds one that is not.
    for epsilon, chosen in ((1.0, present), (-1.0, ~present)):
        sources = np.flatnonzero(chosen).tolist()
        found = simulate(run, "trajectory", {"epsilon": epsilon}, weights=weights, sources=sources)
        seconds, plain = seconds + found.seconds, plain + found.plain_seconds / 2
        for name, values in read_out(run, run.start(), found, epsilon).items():
            scores.setdefault(name, np.zeros((len(run.queries), len(present))))[:, sources] = values
    return {**scores, "seconds": seconds, "plain_seconds": plain}


@dataclass(frozen=True)
class Descent(Named):
    """The checkpoint simulator: from the finished model alone, with damping and numbers of steps to choose from.

    The record: `linear` (settings, queries, sources), `seconds` (settings,) and `plain_seconds`.

    Attributes:
        seed: of the run whose end is the model.
        steps: after which the tangents are read out, increasing.
        dampings: as multiples of what dist_attr would take (dist_attr.simulation.descent.agree).
        batch_size: sequences of a step.
    """

    seed: int
    steps: tuple[int, ...]
    dampings: tuple[float, ...]
    batch_size: int

    @property
    def settings(self) -> list[str]:
        """In words."""
        return [f"{steps} steps, damping × {damping:g}" for damping in self.dampings for steps in self.steps]

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Train, then descend with each damping."""
        import torch

        from dist_attr.config import DescentConfig
        from dist_attr.influence import CheckpointSimulator, estimate_curvature
        from dist_attr.simulation.descent import agree, descent_schedule
        from dist_attr.simulation.recipe import global_batch, training_step

        run = bench.at(self.seed)
        model, plain = trained(run)
        step = training_step(model, run.training)
        theta, weights = step.space.read(model), torch.ones(len(run.corpus.sources))
        settings = DescentConfig(steps=max(self.steps), batch_size=self.batch_size)
        schedule = descent_schedule(len(run.corpus.tokens), settings, self.seed)
        started = time.process_time()
        # The widest curvature of a few batches: of all it would cost more than the descent.
        measured = [estimate_curvature(step, theta, weights, global_batch(run.corpus, rows)) for rows in schedule[:2]]
        measuring = time.process_time() - started
        scores, seconds = [], []
        for times in self.dampings:
            damping = times * agree(settings, measured).damping
            agreed = agree(settings.model_copy(update={"damping": damping}), measured)
            descent = CheckpointSimulator(
                step, theta, weights, range(len(weights)), rate=agreed.rate, damping=agreed.damping
            )
            started = time.process_time()
            for number, rows in enumerate(schedule, start=1):
                descent.advance(global_batch(run.corpus, rows), number)
                if number in self.steps:
                    seconds.append(measuring + time.process_time() - started)
                    scores.append(read_out(run, run.start(), Displaced(theta, known(descent.tangents())), None))
        linear = np.stack([one["linear"] for one in scores])
        return record({"linear": linear, "seconds": np.array(seconds), "plain_seconds": plain})


def known(tangents: Tensor) -> Tensor:
    """Nothing is known of a source whose replica ran away: its tangent is 0."""
    return tangents.nan_to_num(0.0)


def trained(run: Retraining) -> tuple[Any, float]:
    """The model of a run, and the seconds of the processor that training took."""
    turns = [(model, seconds) for _, model, _, seconds in in_turns(run)]
    return turns[-1][0], sum(seconds for _, seconds in turns)
