"""The ends of the Hessian's spectrum, which say how far a step of gradient descent may go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dist_attr.influence.forward_mode import push_forward
from dist_attr.influence.large_batch import gradient_in_parts
from dist_attr.influence.loss import Batch
from dist_attr.influence.training_step import TrainingStep


@dataclass(frozen=True)
class Curvature:
    """The extreme eigenvalues of the Hessian H of the loss.

    Attributes:
        largest: λmax.
        smallest: λmin, which is negative for most neural networks.
    """

    largest: float
    smallest: float

    def rate(self, damping: float) -> float:
        """η = 1/(λmax + λ), half of what gradient descent on the damped loss can bear.

        Where the negative end is the larger one, it counts instead of λmax: no step then more than doubles what lies
        along it, so that a few steps can be taken even with little damping.
        """
        return 1 / (max(self.largest, -self.smallest) + damping)

    def converges(self, damping: float) -> bool:
        """Whether λ > −λmin: otherwise descent grows for ever along the directions of negative curvature."""
        return damping > -self.smallest


def estimate_curvature(
    training_step: TrainingStep,
    theta: Tensor,
    weights: Tensor,
    batch: Batch,
    *,
    iterations: int = 50,
    tolerance: float = 1e-3,
    sequences_per_pass: int = 32,
) -> Curvature:
    """Both ends of the spectrum of H = ∂²L/∂θ² on a batch, at parameters (P,) and source weights (S,).

    What iteration leaves open is added on the safe side. A minibatch curves more than the whole, at its negative end
    many times as much: take the batches that the descent will take, and the widest of their estimates.

    Args:
        training_step: whose loss; neither its optimizer nor its clipping nor its weight decay has a part in it.
        theta: the parameters.
        weights: the source weights.
        batch: the batch, as large as one step of the descent.
        iterations: the most Hessian-vector products, each about 2.3 gradients of the batch.
        tolerance: error at which both ends are good enough, relative to the larger of them; it should be well below
            λ/λmax, or it hides the negative end that λ has to outweigh.
        sequences_per_pass: sequences computed together; changes memory and speed, not the result.
    """
    gradient = gradient_in_parts(training_step, batch, sequences_per_pass)

    def product(vector: Tensor) -> Tensor:
        _, derivatives = push_forward(lambda theta: gradient(theta, weights), (theta,), (vector.unsqueeze(0),))
        return derivatives[0]

    # The start is arbitrary, but the same in each process: actors that estimate for themselves agree.
    start = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=theta.dtype)
    return Curvature(*_spectrum_ends(product, start.to(theta.device), iterations, tolerance))


def _spectrum_ends(
    product: Callable[[Tensor], Tensor], start: Tensor, iterations: int, tolerance: float
) -> tuple[float, float]:
    """Largest and smallest eigenvalue of a symmetric matrix by power iteration as Lanczos does it.

    Power iteration sees only the last iterate and only the end of larger magnitude. The tridiagonal matrix of all the
    iterates' inner products has both ends, sooner, for the memory of two more vectors. Orthogonality of old iterates,
    which rounding loses, is not restored: that would repeat eigenvalues, but not move the extreme ones.
    """
    before, vector, link = torch.zeros_like(start), start / start.norm(), 0.0
    diagonal: list[float] = []
    links: list[float] = []
    ends = (0.0, 0.0)
    for _ in range(iterations):
        image = product(vector) - link * before
        diagonal.append(float(image @ vector))
        image = image - diagonal[-1] * vector
        link = float(image.norm())
        tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        for row, value in enumerate(links):
            tridiagonal[row, row + 1] = tridiagonal[row + 1, row] = value
        values, vectors = torch.linalg.eigh(tridiagonal)
        # An eigenvalue lies within its error of each of these values.
        errors = link * vectors[-1].abs()
        ends = (float(values[-1] + errors[-1]), float(values[0] - errors[0]))
        if max(errors[0], errors[-1]) <= tolerance * max(map(abs, ends)):
            break
        links.append(link)
        before, vector = vector, image / link
    return ends
