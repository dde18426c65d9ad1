"""What is said of the agreement of influence and in-context probing, as JSON goes out with it."""

from __future__ import annotations

from pydantic import Field

from dist_attr.config import Settings


class Estimate(Settings):
    """A figure with its interval over queries."""

    value: float | None = Field(description="none where no query has it")
    interval: tuple[float, float] | None = Field(
        description="95 % of a bootstrap over queries; none for fewer than 8, or if resamples agree or lack the figure"
    )
    queries: int = Field(description="that have the figure")
    undefined: int = Field(description="queries left out because one of the two rankings has all sources alike")


class Overlap(Settings):
    """What two rankings share of their top."""

    k: int = Field(description="sources in the top")
    overlap: float | None = Field(description="share of the k that both have; none where a ranking has all alike")
    chance: float = Field(description="k / sources: the share that unrelated rankings have on average")
    p: float | None = Field(description="probability that unrelated rankings share as much, or more")


class MeanOverlap(Settings):
    """The mean over queries of the overlap."""

    k: int
    chance: float
    overlap: Estimate


class QueryAgreement(Settings):
    """How the two rank the sources of one query. None: one of them has all sources alike."""

    group: str | None
    spearman: float | None
    kendall: float | None
    overlaps: tuple[Overlap, ...]
    partial: dict[str, float | None] = Field(description="partial rank correlation by what is controlled for")


class Ranking(Settings):
    """How the two rank the sources by all queries together."""

    spearman: Estimate
    kendall: float | None
    overlaps: tuple[Overlap, ...]
    partial: dict[str, Estimate]


class Baseline(Settings):
    """A trivial ranking of the sources beside the two: mean over queries of Spearman's correlation."""

    influence: Estimate
    probing: Estimate


class Cohort(Settings):
    """The agreement over some queries."""

    group: str | None = Field(description="none: all queries")
    queries: int
    spearman: Estimate = Field(description="mean over queries")
    kendall: Estimate
    overlaps: tuple[MeanOverlap, ...]
    partial: dict[str, Estimate]
    baselines: dict[str, Baseline]
    mean: Ranking = Field(description="sources by their mean scores")
    golden: Ranking = Field(
        description="by mean influence, and by the share of queries whose likelihood the source's documents raise"
    )


class Agreement(Settings):
    """Influence and in-context probing compared."""

    sources: int
    overall: Cohort
    groups: tuple[Cohort, ...] = Field(description="of the queries with each label, in the order they appear")
    per_query: tuple[QueryAgreement, ...]
