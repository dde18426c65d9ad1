"""Readout: what tangents say about a sequence of tokens, with forward passes only."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from dist_attr.influence.forward_mode import push_forward
from dist_attr.influence.loss import token_losses
from dist_attr.influence.parameters import Forward, ParameterSpace


class Scores(NamedTuple):
    """What a readout returns for tokens (B, L).

    Attributes:
        logprobs: log p of tokens 1 … L−1 at the trained parameters, (B, L−1), nats.
        scores: of each direction for each of those tokens, (directions, B, L−1), nats per unit source weight.
    """

    logprobs: Tensor
    scores: Tensor


def token_logprobs(forward: Forward, space: ParameterSpace, theta: Tensor, tokens: Tensor) -> Tensor:
    """log p(token | tokens before it) of tokens (B, L) from the second on: (B, L−1), nats.

    Sequences of different lengths are padded on the right with any token: a causal model never looks ahead.
    """
    return -token_losses(forward(space.unflatten(theta), tokens[:, :-1]), tokens[:, 1:])


@torch.no_grad()
def directional_logprobs(
    forward: Forward, space: ParameterSpace, theta: Tensor, tokens: Tensor, directions: Tensor, *, per_pass: int = 8
) -> Scores:
    """The linear readout: D log p(token)[δ] by forward-mode differentiation, for every token and direction (R, P)."""

    def logprobs(theta: Tensor) -> Tensor:
        return token_logprobs(forward, space, theta, tokens)

    pushed = [push_forward(logprobs, (theta,), (part,)) for part in torch.split(directions, per_pass)]
    if not pushed:
        return _no_directions(logprobs(theta))
    return Scores(pushed[0][0], torch.cat([scores for _, scores in pushed]))


@torch.no_grad()
def counterfactual_logprobs(
    forward: Forward, space: ParameterSpace, theta: Tensor, tokens: Tensor, directions: Tensor, *, per_pass: int = 8
) -> Scores:
    """The counterfactual readout: log p(token) at θ minus the same at θ − δ, for every token and direction (R, P)."""

    def logprobs(theta: Tensor) -> Tensor:
        return token_logprobs(forward, space, theta, tokens)

    present = logprobs(theta)
    without = [vmap(logprobs)(theta - part) for part in torch.split(directions, per_pass)]
    if not without:
        return _no_directions(present)
    return Scores(present, present - torch.cat(without))


def _no_directions(logprobs: Tensor) -> Scores:
    return Scores(logprobs, logprobs.new_zeros(0, *logprobs.shape))
