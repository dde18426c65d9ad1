"""Linear regression for scripts/icp_regression.py: tasks, influence in closed form, and as this package simulates it.

Design decisions:
- A pair's likelihood is the Gaussian density of its y around the model's answer, with variance 1: log p is then half
  the squared error, but for a constant, and every score is in nats, as a text's is. The densities are below 1, so that
  the simulators and readouts of `dist_attr.influence`, which know classes only, are given two: y, and not y. A pair is
  one token, its number in a table.
- The ridge's penalty is the one that is best for the noise. Weight decay is the same penalty, and stays what it is when
  a pair leaves, as in a run whose schedule is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from dist_attr.influence import Forward

Floats = NDArray[np.float64]
DOMAINS = ("same", "scaled", "shifted", "other weights")
FAR = 3.0  # how many times as long the queries' x are, or how far away


@dataclass(frozen=True)
class Tasks:
    """Regression tasks: each has weights w, n pairs (x, y = w·x + noise), and a query of each domain.

    Attributes:
        x: (tasks, n, dimensions).
        y: (tasks, n).
        queries: x of the queries, (tasks, domains, dimensions).
        answers: their y, (tasks, domains).
        penalty: of the ridge regression that is best for the noise, on the squared length of its weights.
    """

    x: Floats
    y: Floats
    queries: Floats
    answers: Floats
    penalty: float

    def first(self, number: int) -> Tasks:
        """The first of them."""
        some = slice(number)
        return Tasks(self.x[some], self.y[some], self.queries[some], self.answers[some], self.penalty)

    def loglikelihoods(self, predictions: Floats) -> Floats:
        """log p of the answers (tasks, domains, ...) given predictions of the same shape, nats."""
        answers = self.answers.reshape(self.answers.shape + (1,) * (predictions.ndim - 2))
        return loglikelihood(answers, predictions)


def loglikelihood(y: Floats, predictions: Floats) -> Floats:
    """log p of y by the Gaussian density of variance 1 around predictions, nats."""
    densities: Floats = -0.5 * (y - predictions) ** 2 - 0.5 * math.log(2 * math.pi)
    return densities


def draw(tasks: int, pairs: int, dimensions: int, noise: float, seed: int) -> Tasks:
    """Tasks whose y have variance 1 + noise²; x and w are normal.

    The queries: x of the same kind; the same, `FAR` times as long; the same, `FAR` away in one direction; and x of the
    same kind whose y is of another task's weights.
    """
    random = np.random.default_rng(seed)
    w, others = random.standard_normal((2, tasks, dimensions)) / math.sqrt(dimensions)
    x = random.standard_normal((tasks, pairs, dimensions))
    y = np.einsum("tnd,td->tn", x, w) + noise * random.standard_normal((tasks, pairs))
    queries = random.standard_normal((tasks, len(DOMAINS), dimensions))
    queries[:, DOMAINS.index("scaled")] *= FAR
    queries[:, DOMAINS.index("shifted"), 0] += FAR
    of = np.stack([others if domain == "other weights" else w for domain in DOMAINS], axis=1)
    answers = (queries * of).sum(-1) + noise * random.standard_normal((tasks, len(DOMAINS)))
    return Tasks(x, y, queries, answers, best_penalty(noise, dimensions))


def best_penalty(noise: float, dimensions: int) -> float:
    """The variance of the noise over that of a weight."""
    return noise**2 * dimensions


def ridge(x: Floats, y: Floats, penalty: float) -> Floats:
    """Weights (..., dimensions) that minimise ‖y − Xw‖² + penalty ‖w‖², of x (..., n, dimensions) and y (..., n)."""
    solution: Floats = np.linalg.solve(_normal(x, penalty), np.einsum("...nd,...n->...d", x, y)[..., None])[..., 0]
    return solution


def _normal(x: Floats, penalty: float) -> Floats:
    normal: Floats = np.swapaxes(x, -1, -2) @ x + penalty * np.eye(x.shape[-1])
    return normal


class _Fit(NamedTuple):
    """A ridge regression on all pairs of each task: answers to the queries (tasks, domains), and what a pair does.

    Attributes:
        predictions: (tasks, domains).
        pulls: derivative of the predictions by each pair's weight, (tasks, domains, n).
        leverage: of each pair on its own prediction, (tasks, n).
    """

    predictions: Floats
    pulls: Floats
    leverage: Floats


def _fit(tasks: Tasks) -> _Fit:
    w = ridge(tasks.x, tasks.y, tasks.penalty)
    residuals = tasks.y - np.einsum("tnd,td->tn", tasks.x, w)
    solved = np.linalg.solve(_normal(tasks.x, tasks.penalty), np.swapaxes(tasks.x, 1, 2))  # (tasks, dimensions, n)
    pulls = tasks.queries @ solved * residuals[:, None]
    return _Fit(np.einsum("tqd,td->tq", tasks.queries, w), pulls, np.einsum("tnd,tdn->tn", tasks.x, solved))


def left_out(tasks: Tasks) -> Floats:
    """What the queries' log p loses when ridge regression goes without each pair, (tasks, domains, n), nats."""
    fit = _fit(tasks)
    without = fit.predictions[..., None] - fit.pulls / (1 - fit.leverage)[:, None]
    return tasks.loglikelihoods(fit.predictions)[..., None] - tasks.loglikelihoods(without)


def influence_function(tasks: Tasks) -> Floats:
    """The derivative of the queries' log p by each pair's weight in ridge regression, (tasks, domains, n), nats."""
    fit = _fit(tasks)
    return (tasks.answers - fit.predictions)[..., None] * fit.pulls


def alone(tasks: Tasks) -> Floats:
    """What the queries' log p gains when ridge regression has one pair instead of none, (tasks, domains, n), nats."""
    w = ridge(tasks.x[:, :, None], tasks.y[:, :, None], tasks.penalty)
    with_one = np.einsum("tqd,tnd->tqn", tasks.queries, w)
    return tasks.loglikelihoods(with_one) - tasks.loglikelihoods(np.zeros_like(with_one))


def gradient_at_zero(tasks: Tasks) -> Floats:
    """Dot product of each pair's and the query's gradients at w = 0, where descent begins: (tasks, domains, n)."""
    products = np.einsum("tqd,tnd->tqn", tasks.queries, tasks.x)
    scores: Floats = products * tasks.answers[..., None] * tasks.y[:, None]
    return scores


class Simulated(NamedTuple):
    """What the simulators say of tasks.

    Attributes:
        scores: by simulator (tasks, domains, n), nats per unit weight.
        once: by simulator, the processor's seconds for a task.
        query: by simulator, the processor's seconds for a query.
    """

    scores: dict[str, Floats]
    once: dict[str, float]
    query: dict[str, float]


def table_forward(x: Tensor, y: Tensor) -> Forward:
    """The linear model as one of tokens: (B, L) numbers of pairs to logits (B, L, 2) of their y, and of not their y."""
    import torch

    def forward(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        errors = y[inputs] - x[inputs] @ parameters["weights"]
        density = -0.5 * errors.square() - 0.5 * math.log(2 * math.pi)
        return torch.stack([density, torch.log1p(-density.exp())], -1)

    return forward


def simulate(tasks: Tasks, accuracy: float) -> Simulated:
    """Train each task's linear model by gradient descent with each pair as a source, and read out its queries.

    The trajectory is read out as a counterfactual, the tangent linearly.

    Args:
        tasks: any number.
        accuracy: descent ends when what is left of the way from w = 0 is about so small a share of it.
    """
    found = [simulate_one(tasks, number, accuracy) for number in range(len(tasks.x))]
    return Simulated(
        {name: np.stack([one.scores[name] for one in found]) for name in found[0].scores},
        {name: float(np.mean([one.once[name] for one in found])) for name in found[0].once},
        {name: float(np.mean([one.query[name] for one in found])) for name in found[0].query},
    )


def simulate_one(tasks: Tasks, number: int, accuracy: float) -> Simulated:
    """The same of one task; scores are (domains, n)."""
    import torch

    from dist_attr.influence import (
        SGD,
        Batch,
        ParameterSpace,
        Sequences,
        TrainingStep,
        counterfactual_logprobs,
        directional_logprobs,
        make_simulator,
    )

    x, y = tasks.x[number], tasks.y[number]
    pairs, dimensions = x.shape
    table = torch.tensor(np.concatenate([x, tasks.queries[number]]))
    forward = table_forward(table, torch.tensor(np.concatenate([y, tasks.answers[number]])))
    space = ParameterSpace(("weights",), ((dimensions,),))
    rate, momentum = fastest_descent(curvatures(x, tasks.penalty))
    steps = math.ceil(math.log(accuracy) / (0.5 * math.log(momentum)))  # the way left shrinks by √momentum each step
    step = TrainingStep(forward, space, SGD(momentum), lambda _: rate, weight_decay=tasks.penalty / pairs)
    own = torch.arange(pairs)[:, None]
    batch = Batch(own, torch.zeros_like(own), own)
    queries = pairs + torch.arange(len(DOMAINS))
    tokens = torch.stack([queries, torch.zeros_like(queries)], 1)  # a query's number, then the class that is its y
    scores, once, query = dict[str, Floats](), dict[str, float](), dict[str, float]()
    for method, readout in (("trajectory", counterfactual_logprobs), ("tangent", directional_logprobs)):
        started = time.process_time()
        start = step.initial(torch.zeros(dimensions, dtype=torch.float64))
        ones = torch.ones(pairs, dtype=torch.float64)
        simulator = make_simulator(method, step, start, ones, range(pairs), sources_per_pass=pairs + 1)  # type: ignore[arg-type]
        for t in range(steps):
            simulator.advance(batch, t)
        once[method] = time.process_time() - started
        started = time.process_time()
        at = Sequences(forward, space, simulator.parameters, tokens)
        scores[method] = readout(at, [simulator.tangents()]).scores[..., 0].T.numpy()
        query[method] = (time.process_time() - started) / len(queries)
    return Simulated(scores, once, query)


def curvatures(x: Floats, penalty: float) -> Floats:
    """Curvatures of the loss on x (n, dimensions), and of those without each pair, which are never larger."""
    whole = _normal(x, penalty)
    without = whole - x[:, :, None] * x[:, None]
    found: Floats = np.linalg.eigvalsh(np.concatenate([whole[None], without])).ravel() / len(x)
    return found


def fastest_descent(curvatures: Floats) -> tuple[float, float]:
    """Learning rate and momentum with which descent on a quadratic of these curvatures converges fastest (Polyak)."""
    low, high = math.sqrt(curvatures.min()), math.sqrt(curvatures.max())
    return 4 / (high + low) ** 2, ((high - low) / (high + low)) ** 2
