"""How far in-context probing tells the same story as influence.

Design decisions:
- Two kinds of figures, since they answer different questions. *Per query*: are the sources of one answer ranked alike?
  Its mean over queries has an interval. *Aggregated*: are the sources ranked alike by what they do to all queries
  together? There influence is the mean score of a source, and probing its mean too, or the golden score: the share of
  queries whose likelihood its documents raise.
- A query in which one method scores all sources alike has no ranking. It is left out of the mean, and counted.
- Intervals are over queries: they speak of other queries of the same kind, not of other sources, documents or runs.
- A text's length and its words in common with the query could make both methods agree without either knowing anything.
  So whatever trivial baselines are given stand beside: how they rank sources themselves, and the agreement of what they
  leave unexplained (partial rank correlation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dist_attr.probing.figures import (
    Agreement,
    Baseline,
    Cohort,
    Estimate,
    MeanOverlap,
    Overlap,
    QueryAgreement,
    Ranking,
)
from dist_attr.probing.intervals import interval
from dist_attr.probing.ranks import Floats, kendall, overlap_p, partial_spearman, spearman, top_overlap

KS = (1, 3, 0.1)

Figure = Callable[[Floats, Floats, Floats], Floats]  # of rows (n, sources) twice and controls (n, controls, sources)


def agreement(
    influence: NDArray[np.floating[Any]],
    probing: NDArray[np.floating[Any]],
    *,
    covariates: Mapping[str, NDArray[np.floating[Any]]] | None = None,
    groups: Sequence[str | None] | None = None,
    ks: Sequence[int | float] = KS,
    seed: int = 0,
) -> Agreement:
    """Compare how influence and in-context probing rank the sources of queries.

    Args:
        influence: (queries, sources) scores, nats per unit source weight.
        probing: (queries, sources) what the sources' documents in the prompt add to log p(completion | prompt), nats.
        covariates: trivial rankings by name, as the documents' lengths or BM25: (queries, sources), or (sources,).
            Each is controlled for by itself and, if there are several, all together ("a + b").
        groups: a label for each query, as "in-domain"; None belongs to no group.
        ks: sizes of the top, as a number of sources or, below 1, as a share of them; those that are not smaller than
            the number of sources say nothing and are left out.
        seed: of the bootstrap.

    Raises:
        ValueError: shapes do not fit each other, there is no query or fewer than 2 sources, or a number is not finite.
    """
    pair = _checked("influence", influence, None), _checked("probing", probing, np.shape(influence))
    shape = pair[0].shape
    given = {name: _checked(name, values, shape) for name, values in (covariates or {}).items()}
    labels = [None] * shape[0] if groups is None else list(groups)
    if len(labels) != shape[0]:
        raise ValueError(f"there are {len(labels)} group labels for {shape[0]} queries")
    if any(k <= 0 for k in ks):
        raise ValueError(f"ks are {list(ks)}; each must be positive")
    sizes = sorted({max(1, round(k * shape[1])) if k < 1 else int(k) for k in ks})
    rows = _Rows(*pair, given, [k for k in sizes if k < shape[1]])
    chosen = {name: np.array([label == name for label in labels]) for name in dict.fromkeys(labels) if name is not None}
    return Agreement(
        sources=shape[1],
        overall=rows.cohort(None, np.full(shape[0], True), seed),
        groups=tuple(rows.cohort(name, which, seed) for name, which in chosen.items()),
        per_query=tuple(rows.query(i, label) for i, label in enumerate(labels)),
    )


class _Rows:
    """The scores and, for each query, the figures of how they agree; NaN where there is none."""

    def __init__(self, influence: Floats, probing: Floats, covariates: dict[str, Floats], sizes: list[int]) -> None:
        self.influence, self.probing, self.covariates, self.sizes = influence, probing, covariates, sizes
        self.controls = {name: values[:, None] for name, values in covariates.items()}
        if len(covariates) > 1:
            self.controls[" + ".join(covariates)] = np.stack(list(covariates.values()), axis=1)
        self.spearman, self.kendall = spearman(influence, probing), kendall(influence, probing)
        self.overlap = {k: top_overlap(influence, probing, k) for k in sizes}
        self.partial = {name: partial_spearman(influence, probing, values) for name, values in self.controls.items()}
        self.baselines = {
            name: (spearman(values, influence), spearman(values, probing)) for name, values in covariates.items()
        }

    def query(self, i: int, group: str | None) -> QueryAgreement:
        return QueryAgreement(
            group=group,
            spearman=_number(self.spearman[i]),
            kendall=_number(self.kendall[i]),
            overlaps=tuple(self._overlap(k, values[i]) for k, values in self.overlap.items()),
            partial={name: _number(values[i]) for name, values in self.partial.items()},
        )

    def cohort(self, group: str | None, which: NDArray[np.bool_], seed: int) -> Cohort:
        def mean(values: Floats) -> Estimate:
            return _mean(values[which], seed)

        return Cohort(
            group=group,
            queries=int(which.sum()),
            spearman=mean(self.spearman),
            kendall=mean(self.kendall),
            overlaps=tuple(
                MeanOverlap(k=k, chance=k / self.influence.shape[1], overlap=mean(values))
                for k, values in self.overlap.items()
            ),
            partial={name: mean(values) for name, values in self.partial.items()},
            baselines={
                name: Baseline(influence=mean(ours), probing=mean(theirs))
                for name, (ours, theirs) in self.baselines.items()
            },
            mean=self._ranking(self.probing, which, seed),
            golden=self._ranking((self.probing > 0).astype(np.float64), which, seed),
        )

    def _ranking(self, probing: Floats, which: NDArray[np.bool_], seed: int) -> Ranking:
        influence, probing = self.influence[which], probing[which]
        controls = {name: values[which] for name, values in self.controls.items()}
        queries, sources = influence.shape

        def estimate(figure: Figure, extra: Floats) -> Estimate:
            """A figure of the means over queries; `extra` (queries, controls, sources)."""

            def statistic(drawn: NDArray[np.int64]) -> Floats:
                times = _times_drawn(drawn, queries)
                # Divided last: sums of whole numbers, as the golden score has them, are exact and tie exactly.
                ours, theirs = (times @ values / drawn.shape[-1] for values in (influence, probing))
                return figure(ours, theirs, np.einsum("rq,qcs->rcs", times, extra) / drawn.shape[-1])

            value = statistic(np.arange(queries)[None])[0]
            known = not np.isnan(value)
            width = sources * (2 + extra.shape[1])
            return Estimate(
                value=_number(value),
                interval=interval(statistic, queries, width, seed) if known else None,
                queries=queries if known else 0,
                undefined=0 if known else queries,
            )

        ours, theirs = influence.mean(axis=0), probing.mean(axis=0)
        return Ranking(
            spearman=estimate(lambda a, b, _: spearman(a, b), np.empty((queries, 0, sources))),
            kendall=_number(kendall(ours, theirs)),
            overlaps=tuple(self._overlap(k, top_overlap(ours, theirs, k)) for k in self.sizes),
            partial={name: estimate(partial_spearman, values) for name, values in controls.items()},
        )

    def _overlap(self, k: int, shared: Floats) -> Overlap:
        sources = self.influence.shape[1]
        return Overlap(k=k, overlap=_number(shared), chance=k / sources, p=_number(overlap_p(shared, k, sources)))


def _mean(values: Floats, seed: int) -> Estimate:
    """Of those that are there."""
    known = values[~np.isnan(values)]
    return Estimate(
        value=float(known.mean()) if len(known) else None,
        interval=interval(lambda drawn: known[drawn].mean(axis=-1), len(known), 0, seed),
        queries=len(known),
        undefined=len(values) - len(known),
    )


def _times_drawn(drawn: NDArray[np.int64], queries: int) -> Floats:
    """How often each resample (resamples, length) has each query, (resamples, queries)."""
    numbers = drawn + queries * np.arange(len(drawn))[:, None]
    return np.bincount(numbers.ravel(), minlength=len(drawn) * queries).reshape(-1, queries).astype(np.float64)


def _checked(name: str, values: ArrayLike, shape: tuple[int, ...] | None) -> Floats:
    """As float64 (queries, sources)."""
    found = np.asarray(values, np.float64)
    if shape is not None and found.ndim == 1 and found.shape == shape[1:]:
        found = np.broadcast_to(found, shape)
    if shape is not None and found.shape != shape:
        raise ValueError(f"{name} has the shape {found.shape}, influence {shape}; both are (queries, sources)")
    if found.ndim != 2 or found.shape[0] < 1 or found.shape[1] < 2:
        raise ValueError(f"{name} has the shape {found.shape}; it must be (queries, sources), with two sources or more")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} holds a number that is not finite")
    return found


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
