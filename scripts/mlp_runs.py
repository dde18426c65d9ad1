"""Classifiers on small images: how they are trained, retrained and simulated, every example being a source.

A run goes through all examples once an epoch, in an order of its own. It may be trained on a random *half* of them:
batches are then twice as large, and the examples of the other half are in them with weight 0. They do not move the
model, but it has a derivative in their weights like in any other: what a little of an example would do to a model that
was trained on half of the data. That is the derivative which a subset of half the examples asks for: its average over
halves is the best linear prediction there is (the Banzhaf value of the examples), while the derivative at the model
that was trained on everything says what happens near everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dist_attr.influence import (
    SGD,
    Batch,
    Levers,
    ParameterSpace,
    Simulator,
    TrainingStep,
    make_simulator,
)
from dist_attr.influence.forward_mode import push_forward
from scripts.mlp_data import Images

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how."""

    widths: tuple[int, ...]
    epochs: int
    batch_size: int
    rate: float
    momentum: float = 0.9

    def model(self, seed: int) -> nn.Sequential:
        """Linear layers with ReLU between, with random weights."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            for inputs, outputs in pairwise(self.widths):
                layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


@dataclass(frozen=True, eq=False)
class Run:
    """One training.

    Attributes:
        recipe: of all runs.
        images: what is trained on, and asked.
        seed: of the weights, the order and the half.
        half: whether half of the examples have weight 0.
    """

    recipe: Recipe
    images: Images
    seed: int
    half: bool = False

    @property
    def _draw(self) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_003 + self.seed)

    @cached_property
    def weights(self) -> Tensor:
        """Of the examples, (N,)."""
        number = len(self.images.train)
        weights = torch.ones(number)
        if self.half:
            weights[torch.randperm(number, generator=self._draw)[: number // 2]] = 0
        return weights

    def batches(self) -> Iterator[Batch]:
        """Those of the training, in order; the targets' sources are the examples' numbers."""
        draw, number = self._draw, len(self.images.train)
        torch.randperm(number, generator=draw)  # what the half was drawn with
        size = self.recipe.batch_size * (2 if self.half else 1)
        for _ in range(self.recipe.epochs):
            for rows in torch.randperm(number, generator=draw).split(size):
                yield Batch(self.images.train[rows], self.images.train_labels[rows], rows)

    @cached_property
    def start(self) -> nn.Sequential:
        """The model before the first step."""
        return self.recipe.model(self.seed)

    @cached_property
    def step(self) -> TrainingStep:
        """Φ. A half's batches divide by twice as many targets as count, which the rate makes up for."""
        rate = self.recipe.rate * (2 if self.half else 1)
        return TrainingStep(self._forward, ParameterSpace.of(self.start), SGD(self.recipe.momentum), lambda _: rate)

    def _forward(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        logits = torch.func.functional_call(self.start, dict(parameters), (inputs,))
        assert isinstance(logits, Tensor)
        return logits

    def retrained(self, weights: Tensor) -> nn.Sequential:
        """The same training with other weights of the examples, in plain torch; this half's rate and batches."""
        model = self.recipe.model(self.seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=self.step.rate(0), momentum=self.recipe.momentum)
        for batch in self.batches():
            losses = nn.functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")
            optimizer.zero_grad()
            ((weights[batch.sources] * losses).sum() / batch.count).backward()
            optimizer.step()
        return model

    def log_odds(self, theta: Tensor, queries: slice = slice(None)) -> Tensor:
        """log p / (1 − p) of each query's label, the benchmark's output: (queries,)."""
        logits = self._forward(self.step.space.unflatten(theta), self.images.test[queries])
        return log_odds(logits, self.images.test_labels[queries])

    def simulated(
        self,
        sources: list[int],
        horizon: int | None,
        curvature: float = 1.0,
        path: list[Tensor] | None = None,
        steps: int | None = None,
    ) -> Simulator:
        """The tangent simulation of some examples.

        Args:
            sources: the examples.
            horizon: of the simulation.
            curvature: what their curvature counts.
            path: gets the parameters before each step and after the last.
            steps: of the training, by default all.
        """
        step = self.step
        start = step.initial(step.space.read(self.start))
        simulator = make_simulator(
            "tangent",
            step,
            start,
            self.weights,
            sources,
            levers=Levers(horizon=horizon, curvature_weight=curvature),
            sources_per_pass=32,
        )
        for t, batch in enumerate(islice(self.batches(), steps)):
            if path is not None:
                path.append(simulator.parameters.clone())
            simulator.advance(batch, t)
        if path is not None:
            path.append(simulator.parameters.clone())
        return simulator

    def read_out(self, simulator: Simulator) -> Floats:
        """Scores (queries, simulated sources) by the linear readout: forward passes only."""
        with torch.no_grad():
            parts = [
                push_forward(self.log_odds, (simulator.parameters,), (part,))[1]
                for part in torch.split(simulator.tangents(), 64)
            ]
        return torch.cat(parts).T.double().numpy()


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """log p / (1 − p) of a label, without the cancellation where p is nearly 1."""
    one_hot = nn.functional.one_hot(labels, logits.shape[-1]).bool()
    own = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return own - logits.masked_fill(one_hot, -torch.inf).logsumexp(-1)


def trained_on(recipe: Recipe, images: Images, kept: NDArray[np.int64], seed: int) -> nn.Sequential:
    """A model that never saw the other examples, in plain torch: the published protocol's retraining.

    Its epochs are as much shorter as it has fewer examples.
    """
    model, draw = recipe.model(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.rate, momentum=recipe.momentum)
    there = torch.from_numpy(kept)
    for _ in range(recipe.epochs):
        for rows in there[torch.randperm(len(there), generator=draw)].split(recipe.batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images.train[rows]), images.train_labels[rows]).backward()
            optimizer.step()
    return model
