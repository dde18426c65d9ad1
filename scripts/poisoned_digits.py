"""Digits with wrong labels: 100 sources of ten images each, five of them labelled wrongly and five carelessly.

Wrongly is all ten labels, carelessly two of them; a wrong label is one of the nine others, drawn at random. A network
of one hidden layer is trained with SGD on scikit-learn's digits, 8 × 8 pixels. The clean examples are images that were
held out, rightly labelled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.poisoned_methods import Trained

if TYPE_CHECKING:
    from torch import Tensor

CLASSES, PIXELS = 10, 64
KINDS = ("ten of ten labels wrong", "two of ten labels wrong")
WRONG = (0, 10, 2)  # labels of a source, by its kind


@dataclass(frozen=True)
class Recipe:
    """What is trained on, and for how long."""

    sources: int = 100
    examples: int = 10  # of each source
    poisoned: int = 5  # sources of each kind
    clean: int = 400  # examples of the clean set
    hidden: int = 64
    epochs: int = 15
    batch: int = 50
    learning_rate: float = 0.01
    momentum: float = 0.9


QUICK = Recipe(sources=20, poisoned=2, clean=100, hidden=8, epochs=3)


@cache
def digits() -> tuple[Any, Any]:
    """Images (1797, 64) from 0 to 1 and their labels (1797,)."""
    import torch
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images / 16).float(), torch.from_numpy(labels).long()


def trained(recipe: Recipe, draw: int) -> Trained:
    """Draw the sources, poison some, train, and simulate beside it."""
    import torch
    from torch import nn

    from dist_attr.influence import SGD, Batch, ParameterSpace, TrainingStep, make_simulator, module_forward

    images, labels = digits()
    generator, order = np.random.default_rng(draw), torch.Generator().manual_seed(draw)
    chosen = torch.from_numpy(generator.permutation(len(images)))
    number = recipe.sources * recipe.examples
    own, clean = chosen[:number], chosen[number : number + recipe.clean]
    sources = torch.arange(recipe.sources).repeat_interleave(recipe.examples)
    kinds = np.zeros(recipe.sources, np.int64)
    bad = generator.choice(recipe.sources, len(KINDS) * recipe.poisoned, replace=False)
    kinds[bad] = np.repeat([1, 2], recipe.poisoned)
    mistaken = np.arange(number) % recipe.examples < np.array(WRONG)[kinds].repeat(recipe.examples)
    given = (labels[own] + torch.from_numpy(mistaken * generator.integers(1, CLASSES, number))) % CLASSES

    torch.manual_seed(draw)
    model = nn.Sequential(nn.Linear(PIXELS, recipe.hidden), nn.ReLU(), nn.Linear(recipe.hidden, CLASSES))
    space, forward = ParameterSpace.of(model), module_forward(model)
    step = TrainingStep(forward, space, SGD(recipe.momentum), lambda _: recipe.learning_rate)
    state, weights = step.initial(space.read(model)), torch.ones(recipe.sources)
    make = partial(make_simulator, training_step=step, start=state, weights=weights, sources_per_pass=25)
    simulators = {name: make(name, sources=range(recipe.sources)) for name in ("trajectory", "tangent")}
    t = 0
    for _ in range(recipe.epochs):
        for rows in torch.split(torch.randperm(number, generator=order), recipe.batch):
            batch = Batch(images[own][rows], given[rows], sources[rows])
            for simulator in simulators.values():
                simulator.advance(batch, t)
            t += 1

    def logprob(inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        def of(theta: Tensor) -> Tensor:
            logits = forward(space.unflatten(theta), inputs)
            return logits.log_softmax(-1).gather(-1, targets[:, None]).sum()

        return of

    return Trained(
        theta=simulators["trajectory"].parameters,
        tangents={name: simulator.tangents() for name, simulator in simulators.items()},
        clean={"held-out images": logprob(images[clean], labels[clean])},
        own=[logprob(images[own][sources == source], given[sources == source]) for source in range(recipe.sources)],
        counts=[recipe.examples] * recipe.sources,
        kinds=kinds,
    )
