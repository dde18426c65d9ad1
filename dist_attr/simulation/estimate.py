"""What a plan says of one choice of settings."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dist_attr.influence import ParameterSpace, Sequences, directional_logprobs
from dist_attr.models import causal_forward

QUERY_DIRECTIONS = 8


@dataclass(frozen=True)
class Estimate:
    """What one choice of settings costs.

    Attributes:
        name: of the choice.
        settings: that differ from the run's, by dotted name.
        seconds: of the whole run, with starting the actors; none if it does not fit.
        simulation_seconds: of these, the simulation's own.
        of_retraining: simulation_seconds in units of what training once without each source would take.
        device_hours: of all its actors together.
        device: what these are of, GPU or CPU.
        sources_per_pass: sources computed together.
        memory_bytes: the simulation's, of the actor that takes most.
        parked: where states lie that do not fit in that memory; none if they do.
        store_bytes: of the influence store, before compression.
        query_seconds: linear readout of a query as long as the context, all sources, on one device.
        problem: why it does not fit or cannot run; none if it can.
    """

    name: str
    settings: dict[str, Any]
    seconds: float | None = None
    simulation_seconds: float | None = None
    of_retraining: float | None = None
    device_hours: float | None = None
    device: str = "CPU"
    sources_per_pass: int | None = None
    memory_bytes: int | None = None
    parked: str | None = None
    store_bytes: int | None = None
    query_seconds: float | None = None
    problem: str | None = None


def readout_seconds(model: nn.Module, tokens: Tensor) -> float:
    """Seconds of the linear readout of one query (1, L), as long as the context, for one source."""
    space = ParameterSpace.of(model)
    theta = space.read(model)
    directions = torch.randn(QUERY_DIRECTIONS, len(theta), device=theta.device)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        directional_logprobs(Sequences(causal_forward(model), space, theta, tokens), [directions]).scores.cpu()
        seconds.append((time.perf_counter() - started) / QUERY_DIRECTIONS)
    return min(seconds)
