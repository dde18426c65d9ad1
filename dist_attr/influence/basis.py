"""The readout basis: a few directions in the span of the tangents that reproduce most scores.

Scores are linear in the tangents: along V = BΔ they are B times the scores along Δ. The rows of B are the directions in
which the scores of calibration queries vary most, so that R of them give all S scores to within a residual, which is
measured on queries that had no part in choosing them. The cost of a query then grows with R, not with the number of
sources. (The idea of a basis taken from scores and not from the tangents themselves is ours; docs/results.md has what
it keeps.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ReadoutBasis:
    """R combinations of S sources.

    Attributes:
        mixing: B, (R, S), orthonormal rows.
        residual: for each source, the root mean square of what the basis leaves out of a query's score, as a share of
            the length of the score vector that it gives, (S,).
        token_residual: the same for the scores of single tokens, (S,).
    """

    mixing: Tensor
    residual: Tensor
    token_residual: Tensor

    @property
    def rank(self) -> int:
        """R."""
        return len(self.mixing)

    @classmethod
    def fit(
        cls, token_scores: Sequence[Tensor], *, rank: int | None = None, energy: float | None = None
    ) -> ReadoutBasis:
        """Choose directions from calibration queries, and measure what they leave out.

        Args:
            token_scores: of each query, at least 4, the scores of its tokens against all sources, (tokens, S). A
                query's score is their sum, and every query counts the same.
            rank: R.
            energy: instead of R, the share of the sum of squares that is to be kept; R is the least that does.

        Raises:
            ValueError: too few queries, or not exactly one of `rank` and `energy`.
        """
        if (rank is None) == (energy is None):
            raise ValueError("give either a rank or an energy")
        if len(token_scores) < 4:
            raise ValueError(f"a basis needs at least 4 calibration queries, there are {len(token_scores)}")
        scores = torch.stack([of_query.double().sum(0) for of_query in token_scores])
        singular, directions = _directions(scores)
        if rank is None:
            kept = singular.square().cumsum(0) / singular.square().sum().clamp_min(1e-30)
            rank = int((kept < (energy or 0.0) - 1e-6).sum()) + 1
        rank = min(rank, len(directions))
        # Each half is judged by the directions of the other.
        left, left_of_tokens = [], []
        for judged in (0, 1):
            others = _directions(scores[1 - judged :: 2])[1][:rank]
            left.append(_left_out(scores[judged::2], others))
            left_of_tokens.append(_left_out(torch.cat(list(token_scores[judged::2])), others))
        return cls(
            directions[:rank],
            torch.cat(left).square().mean(0).sqrt(),
            torch.cat(left_of_tokens).square().mean(0).sqrt(),
        )

    def of_sources(self, along: Tensor) -> Tensor:
        """Scores of all sources (S, ...) from those along the R directions (R, ...)."""
        scores: Tensor = torch.tensordot(self.mixing, along, dims=([0], [0]))
        return scores

    def error(self, along: Tensor) -> Tensor:
        """Standard error (S,) of a query's scores from those along the directions (R,)."""
        error: Tensor = self.residual * along.norm()
        return error


def _directions(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors (N or S, S) of score vectors, each taken at length 1."""
    rows = scores / scores.norm(dim=1, keepdim=True).clamp_min(1e-30)
    _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
    return singular, directions


def _left_out(scores: Tensor, directions: Tensor) -> Tensor:
    """What is left out of each score vector (N, S), relative to the length of what is kept."""
    along = scores.double() @ directions.T
    left: Tensor = (scores - along @ directions) / along.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return left
