"""The checkpoint simulator: from a finished model, descent on the damped loss with more and less of each source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from dist_attr.influence.large_batch import gradient_in_parts, sequences_of
from dist_attr.influence.loss import Batch
from dist_attr.influence.training_step import SourceState, TrainingStep, TrainState, cache_blocks

# A displacement may be this many times what it could be were the loss convex, which a neural network's is not.
# Descent that diverges grows exponentially, and is past any factor soon.
NOT_CONVEX = 2.0


class Divergence(NamedTuple):
    """A source's replica ran away: the rate is too large, or the damping smaller than the negative curvature.

    Attributes:
        step: at which it was found.
        displacement: how far from θ0 the replica was.
        reach: how far descent that converges could have come by then.
    """

    step: int
    displacement: float
    reach: float

    def __str__(self) -> str:
        return (
            f"diverged at step {self.step}: displaced by {self.displacement:.3g}, where descent that converges "
            f"reaches {self.reach:.3g} at most; lower the rate or raise the damping"
        )


class AtRest(NamedTuple):
    """What a batch says at θ0.

    Attributes:
        gradient: of the loss at the unperturbed weights, (P,).
        push: largest force ε‖g_b‖ on each source's replicas, (sources,), with room for rounding.
    """

    gradient: Tensor
    push: Tensor


class CheckpointSimulator:
    """From a model's parameters θ0, replicas that descend with w_b = 1 ± ε: δ_b = (θ_b⁺ − θ_b⁻)/2ε.

    A replica follows L(θ; w ± εe_b) − ⟨∇L(θ0; w), θ⟩ + λ/2 ‖θ − θ0‖². The middle term is zero where training has
    converged. Where it has not, as in any large model, it makes θ0 stationary: without it, all replicas would go on
    training, and their difference would be the influence on another model, some steps away, than the one that is
    asked about. So the unperturbed parameters are θ0 throughout, H and g_b are those at θ0, and, the term being taken
    on each step's own batch, sampling noise that is not the source's cancels.

    After K steps on the full batch δ_b = −η Σ_{k<K} (I − η(H + λI))^k g_b for small ε, with g_b = ∂²L/∂w_b∂θ; it tends
    to −(H + λI)⁻¹ g_b. Directions of curvature below about 1/(ηK) have not converged by then, which has the effect of
    that much more damping. Where H + λI has a negative eigenvalue there is no limit, and a finite K only.

    One step is one batch: all the documents, the same Batch object each time (what it says at θ0 is then computed
    once), or a minibatch. It need not fit in memory at once.

    Attributes:
        diverged: the sources that have no tangent because a replica is not finite, or further away than descent that
            converges can be. They are NaN from then on; the others are not concerned.
    """

    def __init__(
        self,
        training_step: TrainingStep,
        theta: Tensor,
        weights: Tensor,
        sources: Sequence[int],
        *,
        rate: float,
        damping: float,
        epsilon: float = 0.01,
        replicas_per_pass: int = 8,
        sequences_per_pass: int = 32,
    ) -> None:
        """Replicas that have not moved yet.

        Args:
            training_step: whose loss; neither its optimizer nor its clipping nor its weight decay has a part in it.
            theta: θ0 (P,).
            weights: the source weights (S,) that the model was trained with.
            sources: indices into weights, the sources to simulate.
            rate: η; `Curvature.rate` gives one that is stable.
            damping: λ.
            epsilon: by how much a replica's weight of its source differs.
            replicas_per_pass: replicas, two per source, computed together; changes memory and speed, not the result.
            sequences_per_pass: sequences computed together; changes memory and speed, not the result.
        """
        self._step, self._theta, self._weights, self._sources = training_step, theta, weights, list(sources)
        self._rate, self._damping, self._epsilon = rate, damping, epsilon
        self._sequences = sequences_per_pass
        rows = 2 * len(self._sources)
        self._replica_weights = weights.repeat(rows, 1)
        for number, source in enumerate(self._sources):
            self._replica_weights[2 * number, source] -= epsilon
            self._replica_weights[2 * number + 1, source] += epsilon
        self._passes = [
            slice(first, min(first + replicas_per_pass, rows)) for first in range(0, rows, replicas_per_pass)
        ]
        # Displacements, not parameters: the small steps do not drown in the rounding of θ0.
        self._moved = theta.new_zeros(rows, len(theta))
        self._reach = theta.new_zeros(len(self._sources))
        self._seen: Batch | None = None
        self.diverged: dict[int, Divergence] = {}

    @property
    def parameters(self) -> Tensor:
        """The unperturbed parameters θ0 (P,), which do not move."""
        return self._theta

    def advance(self, batch: Batch, step: int) -> None:
        """One step of descent of every replica on a batch."""
        if batch is not self._seen:
            self._seen, self._rest = batch, self._at_rest(batch)
        gradients = vmap(gradient_in_parts(self._step, batch, self._sequences))
        for rows in self._passes:
            force = gradients(self._theta + self._moved[rows], self._replica_weights[rows])
            for columns in cache_blocks(force):
                moved, force_here = self._moved[rows, columns], force[:, columns]
                force_here.sub_(self._rest.gradient[columns]).add_(moved, alpha=self._damping)
                moved.sub_(force_here, alpha=self._rate)
        self._reach += self._rate * self._rest.push
        self._check(step)

    def _at_rest(self, batch: Batch) -> AtRest:
        gradient = gradient_in_parts(self._step, batch, self._sequences)(self._theta, self._weights)
        push = torch.zeros_like(self._reach)
        for number, source in enumerate(self._sources):
            own = sequences_of(batch, source)
            if own.count:
                of_own = gradient_in_parts(self._step, own, self._sequences)(
                    self._theta, torch.ones_like(self._weights)
                )
                push[number] = self._epsilon * own.count / batch.count * of_own.norm()
        # Gradients that are computed in two ways differ in their last digits, which pushes even an absent source.
        return AtRest(gradient, push + torch.finfo(gradient.dtype).eps ** 0.5 * gradient.norm())

    def _check(self, step: int) -> None:
        """Gradient descent on a convex loss brings no two points further apart at a stable rate.

        So, from θ0, no replica gets further than the sum of the pushes that its source gives it there.
        """
        far = self._far()
        for number in (~(far <= NOT_CONVEX * self._reach)).nonzero().flatten().tolist():
            if (source := self._sources[number]) not in self.diverged:
                self.diverged[source] = Divergence(step, float(far[number]), float(self._reach[number]))
                self._moved[2 * number : 2 * number + 2] = torch.nan

    def _far(self) -> Tensor:
        """How far each source's replicas are from θ0, (sources,)."""
        far: Tensor = self._moved.norm(dim=1)
        return far.view(len(self._sources), 2).amax(1)

    def tangents(self) -> Tensor:
        """δ_b (sources, P), NaN for sources that diverged."""
        return (self._moved[1::2] - self._moved[::2]) / (2 * self._epsilon)

    def snapshot(self) -> tuple[TrainState, list[SourceState]]:
        """θ0 (P,), and of each source the displacements (2, P) with less and with more weight.

        Each has its reach () beside it, and, if it diverged, its Divergence (3,).
        """
        states = []
        for number, source in enumerate(self._sources):
            ended = [torch.tensor(self.diverged[source], dtype=torch.float64)] if source in self.diverged else []
            moved = self._moved[2 * number : 2 * number + 2]
            states.append(SourceState(TrainState(moved, (self._reach[number], *ended))))
        return TrainState(self._theta, ()), states

    def resume(self, run: TrainState, sources: Sequence[SourceState]) -> None:
        """Continue from a snapshot of the same sources."""
        self._theta, self._seen = run.theta, None
        for number, (state, _) in enumerate(sources):
            self._moved[2 * number : 2 * number + 2] = state.theta
            self._reach[number], *ended = state.slots
            for step, displacement, reach in ended:
                self.diverged[self._sources[number]] = Divergence(int(step), float(displacement), float(reach))
