"""Simulations of a bench's run with their cost, and what is read out of them; for scripts/dial_tasks.py and others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dist_attr.evaluation import Retraining

CHECKPOINTS = "checkpoints"


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


class Displaced(NamedTuple):
    """Where a run ended, and how its sources moved that.

    Attributes:
        parameters: (P,).
        tangents: (sources, P), per unit of source weight.
        seconds: of the processor that the simulation took; 0 if nobody wants to know.
        plain_seconds: that plain training took, in turns with it.
    """

    parameters: Tensor
    tangents: Tensor
    seconds: float = 0.0
    plain_seconds: float = 0.0


def simulate(
    retraining: Retraining,
    method: str,
    settings: dict[str, float],
    *,
    weights: Tensor | None = None,
    sources: Sequence[int] | None = None,
) -> Displaced:
    """Simulate beside a run.

    Args:
        retraining: the run.
        method: trajectory or tangent.
        settings: levers, `window`, `epsilon`, `central`, and `weight`, a factor of the run's source weights.
        weights: the run's source weights (S,); 1 by default. The plain training it is timed against has all at 1.
        sources: to simulate; all by default.
    """
    import torch

    from dist_attr.influence import Levers, make_simulator
    from dist_attr.simulation.recipe import training_step

    number, steps = len(retraining.corpus.sources), retraining.training.steps
    sources = range(number) if sources is None else sources
    start, settings = retraining.start(), dict(settings)
    weights = settings.pop("weight", 1.0) * (torch.ones(number) if weights is None else weights)
    step = training_step(start, retraining.training)
    state, simulator = step.initial(step.space.read(start)), None
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
                sources,
                levers=levers,
                sources_per_pass=at_once,
                **replicas,  # type: ignore[arg-type]
            )
        started = time.process_time()
        simulator.advance(batch, t)
        simulated += time.process_time() - started
    assert simulator is not None
    return Displaced(simulator.parameters, simulator.tangents(), simulated, plain)


def simulated_scores(retraining: Retraining, method: str, settings: dict[str, float]) -> dict[str, Any]:
    found = simulate(retraining, method, settings)
    epsilon = settings.get("epsilon", 1.0) if method == "trajectory" else None
    cost = found.seconds / found.plain_seconds / len(retraining.corpus.sources)
    scores = read_out(retraining, retraining.start(), found, epsilon)
    return {**scores, "cost": cost, "plain_seconds": found.plain_seconds}


def read_out(retraining: Retraining, model: nn.Module, at: Displaced, epsilon: float | None) -> dict[str, Any]:
    """Scores (queries, sources) by readout, in nats per unit of source weight.

    Args:
        retraining: whose queries are read out.
        model: its structure.
        at: the parameters and the sources' tangents.
        epsilon: by which the sources weighed less in the replicas that the tangents came from, which are then asked
            themselves (`counterfactual`); None if there were none.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from dist_attr.influence import ParameterSpace, Sequences, counterfactual_logprobs, directional_logprobs
    from dist_attr.models import causal_forward

    readouts: dict[str, tuple[Any, float]] = {"linear": (directional_logprobs, 1.0)}
    if epsilon is not None:
        readouts["counterfactual"] = (counterfactual_logprobs, epsilon)
    queries, scores = retraining.queries, {}
    forward, space = causal_forward(model), ParameterSpace.of(model)
    model.requires_grad_(False)
    for name, (readout, reach) in readouts.items():
        parts = []
        for first in range(0, len(queries), 16):
            some = queries[first : first + 16]
            tokens = pad_sequence([torch.tensor(query.tokens) for query in some], batch_first=True)
            sequences = Sequences(forward, space, at.parameters, tokens)
            by_token = readout(sequences, (reach * part for part in torch.split(at.tangents, 8))).scores / reach
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
