"""Readout: what tangents say about a sequence of tokens, with forward passes only.

Directions come as parts, stacks (r, P) that go through together, so that they may be decoded while they are used:
`torch.split(directions, 8)` of a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from dist_attr.influence.forward_mode import push_forward
from dist_attr.influence.loss import token_losses
from dist_attr.influence.parameters import Forward, ParameterSpace

# The way to each side of a central difference, as a share of the parameters' norm: float32 still resolves the
# difference, and curvature does not yet bend it.
STEP = 1e-3


class Scores(NamedTuple):
    """What a readout returns for tokens (B, L), of which those from `first` + 1 on are scored.

    Attributes:
        logprobs: log p of each of those tokens at the trained parameters, (B, L − 1 − first), nats.
        scores: of each direction for each of them, (directions, B, L − 1 − first), nats per unit source weight.
    """

    logprobs: Tensor
    scores: Tensor


class Sequences(NamedTuple):
    """What is read out, and where.

    Sequences of different lengths are padded on the right with any token: a causal model never looks ahead.

    Attributes:
        forward: the model; it gives the logits of positions `first` and later only.
        space: how a vector (P,) is the model's parameters.
        theta: the trained parameters, (P,).
        tokens: (B, L).
        first: the first position whose prediction counts; the output layer is spared the ones before.
    """

    forward: Forward
    space: ParameterSpace
    theta: Tensor
    tokens: Tensor
    first: int = 0

    def logprobs(self, theta: Tensor) -> Tensor:
        """log p(token | tokens before it) at other parameters (P,): (B, L − 1 − first), nats."""
        logits = self.forward(self.space.unflatten(theta), self.tokens[:, :-1])
        if logits.dtype == torch.bfloat16:  # whose log p would be right to a hundredth of a nat only
            logits = logits.float()
        return -token_losses(logits, self.tokens[:, self.first + 1 :])


@torch.no_grad()
def directional_logprobs(at: Sequences, parts: Iterable[Tensor]) -> Scores:
    """The linear readout: D log p(token)[δ] by forward-mode differentiation, for every token and direction."""
    pushed = [push_forward(at.logprobs, (at.theta,), (part,)) for part in parts]
    if not pushed:
        return _no_directions(at)
    return Scores(pushed[0][0], torch.cat([scores for _, scores in pushed]))


@torch.no_grad()
def central_difference_logprobs(at: Sequences, parts: Iterable[Tensor]) -> Scores:
    """The same by central difference, [log p(θ + rδ) − log p(θ − rδ)] / 2r, for engines without differentiation.

    Agrees with the linear readout to about a thousandth of the largest score of a direction, in float32.
    """
    scores, moved, size = [], torch.empty_like(at.theta), STEP * at.theta.norm()
    for part in parts:
        for direction in part:
            length = direction.norm()
            r = size / length if length > 0 else torch.ones_like(size)
            up = at.logprobs(torch.add(at.theta, r * direction, out=moved))
            down = at.logprobs(torch.sub(at.theta, r * direction, out=moved))
            scores.append((up - down) / (2 * r))
    return Scores(at.logprobs(at.theta), torch.stack(scores)) if scores else _no_directions(at)


@torch.no_grad()
def counterfactual_logprobs(at: Sequences, parts: Iterable[Tensor], *, stacked: bool = False) -> Scores:
    """The counterfactual readout: log p(token) at θ minus the same at θ − δ, for every token and direction.

    Args:
        at: the sequences.
        parts: the directions.
        stacked: let the models of a part go through together, which pays where they share most of their layers, as
            adapters on one base do; else one after another, since the layers of models that share nothing are read
            from memory one by one anyway.
    """
    present, without, moved = at.logprobs(at.theta), [], torch.empty_like(at.theta)
    for part in parts:
        if stacked:
            without.append(vmap(at.logprobs)(at.theta - part))
        else:
            without += [at.logprobs(torch.sub(at.theta, direction, out=moved))[None] for direction in part]
    return Scores(present, present - torch.cat(without)) if without else _no_directions(at)


def _no_directions(at: Sequences) -> Scores:
    logprobs = at.logprobs(at.theta)
    return Scores(logprobs, logprobs.new_zeros(0, *logprobs.shape))
