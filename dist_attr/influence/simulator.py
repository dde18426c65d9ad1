"""The contract of the simulators, and which one is which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

from torch import Tensor

from dist_attr.influence.levers import EXACT, Levers
from dist_attr.influence.loss import Batch
from dist_attr.influence.stacks import Stack, beside_the_run
from dist_attr.influence.tangent import TangentSimulator
from dist_attr.influence.training_step import SourceState, TrainingStep, TrainState
from dist_attr.influence.trajectory import TrajectorySimulator


class Simulator(Protocol):
    """Follows a training run and carries how some of its sources move the parameters."""

    def advance(self, batch: Batch, step: int) -> int:
        """Repeat step 0, 1, ... of the run on its global batch; how many sources were active."""
        ...

    @property
    def parameters(self) -> Tensor:
        """The unperturbed parameters (P,), which the run's own are checked against."""
        ...

    def tangents(self) -> Tensor:
        """δ_b (sources, P), displacement per unit of source weight, in the order in which the sources were given."""
        ...

    def tangent(self, number: int) -> Tensor:
        """δ_b (P,) of one of the sources, wherever its state lies."""
        ...

    def snapshot(self) -> tuple[TrainState, list[SourceState]]:
        """Views of all that is needed to continue: the run's state (P,), and of each source its own."""
        ...

    def resume(self, run: TrainState, sources: Iterable[SourceState]) -> None:
        """Continue from a snapshot of the same sources, in the same order."""
        ...


def make_simulator(
    method: Literal["trajectory", "tangent"],
    training_step: TrainingStep,
    start: TrainState,
    weights: Tensor,
    sources: Sequence[int],
    *,
    epsilon: float = 1.0,
    central: bool = False,
    levers: Levers = EXACT,
    sources_per_pass: int = 8,
    stack: Stack = beside_the_run,
) -> Simulator:
    """A simulator for some sources of a run.

    Args:
        method: `trajectory` carries a replica for each source, `tangent` the derivative of the training step.
        training_step: Φ of the run.
        start: the run's state (P,) where the simulation begins: before its first step, or later for a window.
        weights: the run's own source weights (S,).
        sources: indices into weights, the sources to simulate.
        epsilon: by how much a replica's weight of its source differs from the run's; only for `trajectory`.
        central: a replica with more weight besides the one with less; only for `trajectory`.
        levers: what makes it cheaper than exact; replicas have neither horizon nor stride.
        sources_per_pass: sources computed together; changes memory and speed, not the result.
        stack: where the sources' states lie; changes nothing but memory and speed either.

    Raises:
        ValueError: a horizon or a stride for replicas.
    """
    if method == "trajectory":
        if levers.horizon is not None or levers.stride != 1:
            raise ValueError("horizon and stride are levers of the tangent simulator; replicas know curvature_share")
        return TrajectorySimulator(
            training_step,
            start,
            weights,
            sources,
            epsilon=epsilon,
            central=central,
            levers=levers,
            sources_per_pass=sources_per_pass,
            stack=stack,
        )
    return TangentSimulator(
        training_step, start, weights, sources, levers=levers, sources_per_pass=sources_per_pass, stack=stack
    )
