"""The readout basis: a few directions in the span of the tangents that reproduce most scores.

Scores are linear in the tangents: along V = BΔ they are B times the scores along Δ. The rows of B are the directions in
which the scores of calibration queries vary most, so that R of them give all S scores to within a residual, which is
measured on queries that had no part in choosing them. The cost of a query then grows with R, not with the number of
sources. (The idea of a basis taken from scores and not from the tangents themselves is ours; what it keeps is in
docs/results/queries.md.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ReadoutBasis:
    """R combinations of S sources, the first of which are a basis too.

    Attributes:
        mixing: B, (R, S), orthonormal rows, ordered by what they explain.
        residual: for each source, the root mean square of what the directions up to each row leave out of a query's
            score, as a share of the length of the score vector that they give, (R, S).
        token_residual: the same for the scores of single tokens, (R, S).
        energy: the share of the sum of squares of the calibration queries' scores that all rows keep, each query's
            score vector taken at length 1.
    """

    mixing: Tensor
    residual: Tensor
    token_residual: Tensor
    energy: float

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
        kept = singular.square().cumsum(0) / singular.square().sum().clamp_min(1e-30)
        if rank is None:
            rank = int((kept < (energy or 0.0) - 1e-6).sum()) + 1
        rank = min(rank, len(directions))
        # Each half is judged by the directions of the other.
        left, left_of_tokens = [], []
        for judged in (0, 1):
            others = _directions(scores[1 - judged :: 2])[1][:rank]
            left.append(_left_out(scores[judged::2], others, rank))
            left_of_tokens.append(_left_out(torch.cat(list(token_scores[judged::2])), others, rank))
        energy = min(1.0, float(kept[rank - 1]))
        return cls(directions[:rank], _root_mean_square(left), _root_mean_square(left_of_tokens), energy)

    def as_stored(self, token_scores: Sequence[Tensor], along: Sequence[Tensor]) -> ReadoutBasis:
        """The same basis, its residuals with what rounding adds when directions are stored.

        Args:
            token_scores: as they were given to `fit`.
            along: of the same queries, the scores of their tokens along the directions as they are stored, (R, tokens).
        """
        stored = [of_query.double().T for of_query in along]
        pairs = zip(stored, token_scores, strict=True)
        moved = [found - of_query.double() @ self.mixing.T for found, of_query in pairs]
        of_queries = self._moved(torch.stack([m.sum(0) for m in moved]), torch.stack([s.sum(0) for s in stored]))
        of_tokens = self._moved(torch.cat(moved), torch.cat(stored))
        return replace(
            self,
            residual=(self.residual.square() + of_queries).sqrt(),
            token_residual=(self.token_residual.square() + of_tokens).sqrt(),
        )

    def _moved(self, moved: Tensor, along: Tensor) -> Tensor:
        """Mean squares (R, S), relative to their length, of what moves scores if those along directions (N, R) move."""
        kept, total, squares = along.square().cumsum(1).clamp_min(1e-60), moved.new_zeros(()), []
        for number in range(self.rank):
            total = total + torch.outer(moved[:, number], self.mixing[number])
            squares.append((total.square() / kept[:, number : number + 1]).mean(0))
        return torch.stack(squares)

    def of_sources(self, along: Tensor) -> Tensor:
        """Scores of all sources (S, ...) from those along the first directions (r, ...)."""
        scores: Tensor = torch.tensordot(self.mixing[: len(along)], along, dims=([0], [0]))
        return scores

    def error(self, along: Tensor) -> Tensor:
        """Standard error (S,) of a query's scores from those along the first directions (r,)."""
        error: Tensor = self.residual[len(along) - 1] * along.norm()
        return error

    def token_error(self, along: Tensor) -> Tensor:
        """Standard errors (S, tokens) of the scores of tokens from those along the first directions (r, tokens)."""
        return torch.outer(self.token_residual[len(along) - 1], along.norm(dim=0))


def _directions(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors (N or S, S) of score vectors, each taken at length 1."""
    rows = scores / scores.norm(dim=1, keepdim=True).clamp_min(1e-30)
    _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
    return singular, directions


def _left_out(scores: Tensor, directions: Tensor, rank: int) -> tuple[int, Tensor]:
    """How many score vectors (N, S) there are, and the squares of what the first 1, 2, ... `rank` directions leave out.

    Each vector counts relative to the length of what is kept of it; the squares (rank, S) are summed over the vectors.
    """
    left, kept, squares = scores.double().clone(), torch.zeros(len(scores)).double(), []
    for number in range(rank):
        if number < len(directions):  # half of the queries may have fewer directions
            along = left @ directions[number]
            left -= torch.outer(along, directions[number])
            kept += along.square()
        squares.append((left.square() / kept.clamp_min(1e-60)[:, None]).sum(0))
    return len(scores), torch.stack(squares)


def _root_mean_square(halves: list[tuple[int, Tensor]]) -> Tensor:
    mean: Tensor = sum(squares for _, squares in halves) / sum(number for number, _ in halves)  # type: ignore[assignment]
    return mean.sqrt()
