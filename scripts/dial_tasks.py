"""What scripts/dial.py computes: simulations with their cost, and retrained models; each kept in a file of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dist_attr.evaluation import Retraining

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, eq=False)
class Bench:
    """What is trained, asked and dropped, for every seed, and where the results are kept.

    Attributes:
        retraining: the run; its seed is replaced.
        dropped: (subsets, sources), true where a retrained model goes without the source.
        folder: of the results.
        levers: curves of scripts/dial.py that make sense for it, against the first truth; none means everything.
    """

    retraining: Retraining
    dropped: NDArray[np.bool_]
    folder: Path
    levers: tuple[str, ...] = ()

    def at(self, seed: int) -> Retraining:
        """The same with other initial weights and another batch order."""
        training = self.retraining.training.model_copy(update={"seed": seed})
        return replace(self.retraining, training=training)


@dataclass(frozen=True)
class Truth:
    """Retrain without one subset of the sources."""

    seed: int
    subset: int

    def file(self, bench: Bench) -> Path:
        """Holds `outputs` (queries,), in nats."""
        return bench.folder / f"truth {self.seed} {self.subset}.npz"

    def compute(self, bench: Bench) -> dict[str, Any]:
        """What goes into the file."""
        return {"outputs": bench.at(self.seed).outputs((1.0 - bench.dropped[self.subset]).tolist())}


@dataclass(frozen=True)
class Simulation:
    """Simulate all sources beside a run and read out all queries.

    Attributes:
        seed: of the run.
        setting: the method and what is not as in the exact simulation, as in "tangent stride=2 curvature_share=0.5";
            a window is a share of the steps; "gradient checkpoints=4" is the gradient dot product.
    """

    seed: int
    setting: str

    def file(self, bench: Bench) -> Path:
        """Holds `linear` and, of replicas, `counterfactual` (queries, sources), and `cost`."""
        return bench.folder / f"{self.setting} {self.seed}.npz"

    def compute(self, bench: Bench) -> dict[str, Any]:
        """What goes into the file."""
        method, settings = parse(self.setting)
        retraining = bench.at(self.seed)
        if method == "gradient":
            return gradient_scores(retraining, int(settings.get(CHECKPOINTS, 1)))
        return simulated_scores(retraining, method, settings)


def parse(setting: str) -> tuple[str, dict[str, float]]:
    method, *parts = setting.split()
    return method, {name: float(value) for name, value in (part.split("=") for part in parts)}


def in_turns(retraining: Retraining) -> Iterator[tuple[int, Any, Any, float]]:
    """Train plainly, and after each step yield its number, the model, its batch and the seconds of the processor."""
    import torch

    from dist_attr.evaluation.retraining import batches, make_optimizer, train_on_batch
    from dist_attr.influence import Batch
    from dist_attr.simulation.recipe import learning_rate

    training, model = retraining.training, retraining.start()
    optimizer, rate = make_optimizer(model, training), learning_rate(training)
    weights = torch.tensor([1.0] * len(retraining.corpus.sources) + [0.0])
    for t, (tokens, sources) in enumerate(batches(retraining.corpus, training)):
        started = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = rate(t)
        train_on_batch(model, optimizer, tokens, sources, weights, training.gradient_clipping)
        yield t, model, Batch(tokens[:, :-1], tokens[:, 1:], sources[:, 1:]), time.process_time() - started


def simulated_scores(retraining: Retraining, method: str, settings: dict[str, float]) -> dict[str, Any]:
    import torch

    from dist_attr.influence import Levers, make_simulator
    from dist_attr.simulation.recipe import training_step

    sources, steps = len(retraining.corpus.sources), retraining.training.steps
    start = retraining.start()
    step = training_step(start, retraining.training)
    state, weights, simulator = step.initial(step.space.read(start)), torch.ones(sources), None
    first = steps - round(settings.pop("window", 1.0) * steps)
    replicas = {name: settings.pop(name) for name in ("epsilon", "central") if name in settings}
    levers = Levers(**{name: v if name.startswith("curvature") else int(v) for name, v in settings.items()})  # type: ignore[arg-type]
    plain = simulated = 0.0
    for t, _, batch, seconds in in_turns(retraining):
        plain += seconds
        if t < first:
            state = step(state, weights, batch, t)
            continue
        if simulator is None:
            at_once = round(8 / levers.curvature_share)  # in the same memory
            simulator = make_simulator(
                method,  # type: ignore[arg-type]
                step,
                state,
                weights,
                range(sources),
                levers=levers,
                sources_per_pass=at_once,
                **replicas,  # type: ignore[arg-type]
            )
        started = time.process_time()
        simulator.advance(batch, t)
        simulated += time.process_time() - started
    assert simulator is not None
    scores = read_out(retraining, start, simulator, method == "trajectory")
    return {**scores, "cost": simulated / plain / sources, "plain_seconds": plain}


def read_out(retraining: Retraining, model: Any, simulator: Any, counterfactual: bool) -> dict[str, Any]:
    """Scores (queries, sources) by readout."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from dist_attr.influence import ParameterSpace, Sequences, counterfactual_logprobs, directional_logprobs
    from dist_attr.models import causal_forward

    readouts: dict[str, Any] = {"linear": directional_logprobs}
    if counterfactual:
        readouts["counterfactual"] = counterfactual_logprobs
    queries, scores = retraining.queries, {}
    forward, space = causal_forward(model), ParameterSpace.of(model)
    model.requires_grad_(False)
    for name, readout in readouts.items():
        parts = []
        for first in range(0, len(queries), 16):
            some = queries[first : first + 16]
            tokens = pad_sequence([torch.tensor(query.tokens) for query in some], batch_first=True)
            at = Sequences(forward, space, simulator.parameters, tokens)
            by_token = readout(at, torch.split(simulator.tangents(), 8)).scores
            parts += [by_token[:, i, q.start - 1 : len(q.tokens) - 1].sum(1) for i, q in enumerate(some)]
        scores[name] = torch.stack(parts).double().numpy()
    return scores


def gradient_scores(retraining: Retraining, checkpoints: int) -> dict[str, Any]:
    """The gradient dot product, a mean over the ends of equal parts of the run."""
    from dist_attr.evaluation import gradient_dot

    sources, steps = len(retraining.corpus.sources), retraining.training.steps
    ends = {round(steps * (i + 1) / checkpoints) - 1 for i in range(checkpoints)}
    plain, dot, scores = 0.0, 0.0, []
    for t, model, _, seconds in in_turns(retraining):
        plain += seconds
        if t in ends:
            started = time.process_time()
            scores.append(gradient_dot(model, retraining.corpus, retraining.training, retraining.queries))
            dot += time.process_time() - started
    return {"linear": np.mean(scores, axis=0), "cost": dot / plain / sources, "plain_seconds": plain}


def work(bench: Bench, task: Truth | Simulation) -> None:
    """Compute what is not there yet; in a process of its own, with one thread."""
    import torch

    file = task.file(bench)
    if file.exists():
        return
    torch.set_num_threads(1)
    partial = file.with_suffix(".tmp.npz")
    np.savez(partial, **task.compute(bench))
    partial.replace(file)
