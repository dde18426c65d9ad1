"""How much a simulation has to compute, read off the batch schedule before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dist_attr.config import SimulationConfig
from dist_attr.corpus import PackedCorpus
from dist_attr.simulation.probe import PassCost

Counts = NDArray[np.int64]
Bools = NDArray[np.bool_]


def trained_tokens(corpus: PackedCorpus, schedule: Counts) -> Counts:
    """Targets of each source in the batch of each step, (steps, sources)."""
    seen = np.zeros((len(schedule), len(corpus.sources)), np.int64)
    for step, rows in enumerate(schedule):
        sources = corpus.token_sources[rows, 1:]
        seen[step] = np.bincount(sources[sources >= 0], minlength=len(corpus.sources))
    return seen


def active_sources(present: Bools, settings: SimulationConfig) -> Bools:
    """Which sources are computed at which step, (steps, sources).

    A replica is computed at every step of the window. A tangent is from its source's first batch on, with a horizon
    only so many steps after each of its batches.

    Args:
        present: (steps, sources), whether a step's batch holds a source.
        settings: of a trajectory or a tangent simulation.
    """
    steps = np.arange(len(present))[:, None]
    first = 0 if settings.window is None else len(present) - settings.window
    if settings.method == "trajectory":
        return np.broadcast_to(steps >= first, present.shape)
    seen: Counts = np.maximum.accumulate(np.where(present & (steps >= first), steps, -1), axis=0)
    return (seen >= 0) & (steps - seen < (settings.horizon or len(present)))


def simulation_seconds(active: Bools, settings: SimulationConfig, passes: Sequence[PassCost], size: int) -> float:
    """Time that one actor's simulation takes.

    Args:
        active: (steps, its sources), from `active_sources`.
        settings: of the simulation.
        passes: that were measured, of ascending size.
        size: of those the one used.
    """
    rows = active.sum(axis=1)
    if settings.method == "trajectory":
        # Replicas, and the run itself.
        rows = np.where(rows > 0, rows * (2 if settings.central else 1) + 1, 0)
    sizes, seconds = [0, *(cost.sources for cost in passes)], [0.0, *(cost.seconds for cost in passes)]
    whole, rest = np.divmod(rows, size)
    return float((whole * np.interp(size, sizes, seconds) + np.interp(rest, sizes, seconds)).sum())
