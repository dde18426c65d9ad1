"""How suspicious each method finds each source of a trained model: larger is worse.

Two signals. *Effect* on clean examples: what a source does to log p of examples that are known to be right, with its
sign turned; a source that harms them is suspicious. *Self-influence*: what a source does to log p of its own examples;
one that the model knows by heart from this source alone is suspicious. Both come from simulated tangents, linear or
counterfactual, and from gradients at the trained model. The loss of a source's own examples stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    LogProb = Callable[[Tensor], Tensor]

Floats = NDArray[np.float64]
Method = tuple[str, str]  # the signal, and what it is computed from
OWN, LOSS = "self-influence", "loss"
PER_PASS = 8  # tangents that go through the model together


def effect(name: str) -> str:
    """What the signal of a set of clean examples is called."""
    return f"effect on {name}"


@dataclass(frozen=True)
class Trained:
    """A trained model with the tangents of its sources.

    Attributes:
        theta: the parameters (P,).
        tangents: of each simulator its δ_b (sources, P).
        clean: of each set of clean examples, by its name, log p at parameters (P,), a scalar in nats.
        own: the same of each source's own training examples.
        counts: how many predictions these are, (sources,).
        kinds: what was done to each source (sources,), 0 nothing.
    """

    theta: Tensor
    tangents: Mapping[str, Tensor]
    clean: Mapping[str, LogProb]
    own: Sequence[LogProb]
    counts: Sequence[int]
    kinds: NDArray[np.int64]


def suspicion(trained: Trained) -> dict[Method, Floats]:
    """Of each method its figure for each source, (sources,)."""
    import torch

    found: dict[Method, Floats] = {}
    for name, tangents in trained.tangents.items():
        found |= dict(by_tangents(trained, name, tangents))
    theta, counts = trained.theta, np.array(trained.counts)
    own = torch.stack([torch.func.grad(logprob)(theta).double() for logprob in trained.own])
    square = own.square().sum(1).numpy()
    for name, logprob in trained.clean.items():
        dot = (own @ torch.func.grad(logprob)(theta).double()).numpy()
        found[effect(name), "gradient dot product"] = -dot
        found[effect(name), "gradient cosine"] = -dot / np.sqrt(square)  # the clean gradient is the same for all
    with torch.no_grad():
        loss = -np.array([float(logprob(theta)) for logprob in trained.own]) / counts
    return found | {(OWN, "gradient dot product"): square, (LOSS, "mean over the source's examples"): loss}


def by_tangents(trained: Trained, name: str, tangents: Tensor) -> Iterator[tuple[Method, Floats]]:
    """Both signals of a simulator; of replicas also the counterfactual ones, as only they are whole removals."""
    import torch

    from dist_attr.influence.forward_mode import push_forward

    theta, own = trained.theta, list(zip(trained.own, tangents, strict=True))
    with torch.no_grad():
        for clean, logprob in trained.clean.items():
            parts = [push_forward(logprob, (theta,), (part,))[1] for part in torch.split(tangents, PER_PASS)]
            yield (effect(clean), f"{name}, linear"), -as_floats(parts)
        yield (
            (OWN, f"{name}, linear"),
            as_floats([push_forward(logprob, (theta,), (tangent[None],))[1] for logprob, tangent in own]),
        )
        if name != "trajectory":
            return
        for clean, logprob in trained.clean.items():
            lost = [logprob(theta)[None] - logprob(theta - tangent) for tangent in tangents]
            yield (effect(clean), f"{name}, counterfactual"), -as_floats(lost)
        lost = [logprob(theta)[None] - logprob(theta - tangent) for logprob, tangent in own]
        yield (OWN, f"{name}, counterfactual"), as_floats(lost)


def as_floats(parts: Sequence[Tensor]) -> Floats:
    import torch

    values: Floats = torch.cat(list(parts)).double().numpy()
    return values
