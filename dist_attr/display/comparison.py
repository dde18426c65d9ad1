"""A comparison of influence and in-context probing: a page that needs nothing else, and a table in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dist_attr.display.fidelity import fidelity_in_words
from dist_attr.display.page import render
from dist_attr.display.plots import Series, histogram, plot

if TYPE_CHECKING:
    from dist_attr.probing import Agreement, Comparison, Estimate

PLOT = (380, 260)  # pixels of the histogram and of the ranks
SHOWN = 200  # queries that the page lists; the tables beside it have all


def write_comparison(path: Path, found: Comparison) -> None:
    """Write the page."""
    scatters = [
        plot(
            title,
            ("mean influence, nats per unit weight", title),
            [Series("", dots=[(s.influence, getattr(s, name), s.source) for s in found.sources], named=True)],
            said="each source by its mean influence",
        )
        for name, title in (("golden", "golden score"), ("probing", "mean in-context score, nats"))
    ]
    known = [query.spearman for query in found.agreement.per_query if query.spearman is not None]
    page = render(
        "comparison.html.j2",
        {"estimate": estimate, "number": number, "percent": percent},
        found=found,
        overall=found.agreement.overall,
        cohorts=[found.agreement.overall, *found.agreement.groups],
        bars=histogram(known),
        scatters=scatters,
        plot=PLOT,
        verdict=verdict(found.agreement),
        queries=list(zip(found.queries, found.agreement.per_query, strict=True))[:SHOWN],
        fidelity=fidelity_in_words(found.fidelity),
    )
    path.write_text(page, encoding="utf-8")


def show_comparison(found: Comparison, console: Console | None = None) -> None:
    """The main figures, for all queries and for each group."""
    console = console or Console()
    overall, cohorts = found.agreement.overall, (found.agreement.overall, *found.agreement.groups)
    table = Table("", box=None, padding=(0, 2, 0, 0))
    for cohort in cohorts:
        table.add_column(Text(cohort.group or "all queries"))
    table.add_row("queries", *(str(cohort.queries) for cohort in cohorts))
    table.add_row("Spearman", *(estimate(cohort.spearman) for cohort in cohorts))
    table.add_row("Kendall", *(estimate(cohort.kendall) for cohort in cohorts))
    for i, overlap in enumerate(overall.overlaps):
        shared = (percent(cohort.overlaps[i].overlap) for cohort in cohorts)
        table.add_row(f"top {overlap.k}, % shared (chance {100 * overlap.chance:.0f})", *shared)
    for name in overall.partial:
        table.add_row(f"Spearman without {name}", *(estimate(cohort.partial[name]) for cohort in cohorts))
    table.add_row("all together, mean scores", *(estimate(cohort.mean.spearman) for cohort in cohorts))
    table.add_row("all together, golden score", *(estimate(cohort.golden.spearman) for cohort in cohorts))
    console.print(Text(verdict(found.agreement)))
    console.print(table)
    console.print(
        f"a query takes {found.influence_cost.seconds:.3g} s by influence, {found.probing_cost.seconds:.3g} s by "
        f"probing ({found.influence_cost.readings:.0f} and {found.probing_cost.readings:.0f} readings)",
        highlight=False,
    )


def verdict(found: Agreement) -> str:
    """The answer in one sentence."""
    spearman = found.overall.spearman
    if spearman.value is None:
        return "There is no query in which both methods rank the sources: one of them has them all alike."
    if spearman.interval is None:
        said = "too few queries, or too much alike, for an interval"
    elif spearman.interval[0] > 0:
        said = "more than chance, which is 0"
    elif spearman.interval[1] < 0:
        said = "they tend to opposite orders"
    else:
        said = "not to be told from chance, which is 0"
    return (
        f"Influence and in-context probing rank {found.sources} sources alike with Spearman's correlation "
        f"{estimate(spearman)}, mean of {spearman.queries} quer{'y' if spearman.queries == 1 else 'ies'}: {said}."
    )


def estimate(found: Estimate) -> str:
    """A figure and its interval."""
    if found.value is None:
        return "–"
    return f"{found.value:.2f}" + (
        "" if found.interval is None else f" [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"
    )


def percent(found: Estimate) -> str:
    """The same in per cent, without the sign."""
    if found.value is None:
        return "–"
    ends = "" if found.interval is None else f" [{100 * found.interval[0]:.0f}, {100 * found.interval[1]:.0f}]"
    return f"{100 * found.value:.0f}{ends}"


def number(value: float | None, form: str = ".2f") -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else format(value, form)
