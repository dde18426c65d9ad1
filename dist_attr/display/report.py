"""An audit as one page for people: what was found, how sure it is, and how to make it again. It needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dist_attr.auditing import (
    FEWEST,
    Audit,
    Highlights,
    Measure,
    ShareTable,
    SourceShare,
    read_audit,
    read_highlights,
    source_means,
)
from dist_attr.config import absolute_url
from dist_attr.display.comparison import estimate, verdict
from dist_attr.display.comparison import percent as of_hundred
from dist_attr.display.fidelity import fidelity_in_words
from dist_attr.display.page import render
from dist_attr.display.plots import Plot, Series, plot
from dist_attr.store import Place

REPORT = "report.html"
MOST_SOURCES = 40  # in tables; shares.parquet has all
MOST_GROUPS = 12  # columns of the heat map
MOST_SHOWN = 12  # sources whose answers are shown
MOST_WARNINGS = 8  # shown at once
PROMPT = 240  # letters of a prompt that are shown, its last


@dataclass(frozen=True)
class Row:
    """A source in a table of shares.

    Attributes:
        name: of the source.
        share: of positive influence.
        effect: net effect.
        tokens: of training data.
        relative: its share by its part of all training data; none without a share.
    """

    name: str
    share: SourceShare
    effect: SourceShare
    tokens: int
    relative: float | None


@dataclass(frozen=True)
class Cell:
    """Of the heat map: the net effect, and how strong its colour is, from -1 to 1."""

    effect: SourceShare
    strength: float


def write_report(out: str) -> str:
    """Write `report.html` into the folder of a finished audit, from what lies there.

    Args:
        out: the folder, any fsspec URL.

    Returns:
        The page's URL.

    Raises:
        StoreError: there is no finished audit, or it is damaged.
    """
    place = Place(absolute_url(out))
    audit = read_audit(place.url)
    rows = ranked(audit)
    shown = [row.name for row in rows[:MOST_SHOWN]]
    both = None if audit.probing is None else scatter(audit, source_means(place.url, audit))
    place.write(REPORT, page(audit, rows, read_highlights(place.url, audit, shown), both).encode())
    return f"{place.url.rstrip('/')}/{REPORT}"


def page(audit: Audit, rows: Sequence[Row], highlights: dict[str, Highlights], both: Plot | None) -> str:
    """The page's text; `both` is what influence and probing say of each source, if they were compared."""
    groups, cells = heat(audit, rows[:MOST_SOURCES])
    return render(
        "report.html.j2",
        {
            "percent": percent,
            "nats": nats,
            "count": count,
            "short": short,
            "signed": signed,
            "estimate": estimate,
            "of_hundred": of_hundred,
        },
        audit=audit,
        digits=digits_of(rows),
        rows=rows[:MOST_SOURCES],
        more=len(rows) - min(len(rows), MOST_SOURCES),
        largest=max([_upper(row.share) for row in rows] or [1.0]),
        shapley=ranked(audit, "Shapley positive share", "Shapley net effect")[:MOST_SOURCES] if audit.shapley else [],
        groups=groups,
        all_groups=sum(table.scope == "group" and table.measure == "net effect" for table in audit.tables),
        heat=cells,
        highlights=highlights,
        both=both,
        verdict=verdict(audit.probing.agreement) if audit.probing else "",
        summary=summary(audit, rows),
        fidelity=fidelity_in_words(audit.fidelity),
        covered=fidelity_in_words(() if audit.covered is None else (audit.covered,)),
        most_warnings=MOST_WARNINGS,
        prompt=PROMPT,
    )


def ranked(audit: Audit, share: Measure = "positive share", effect: Measure = "net effect") -> list[Row]:
    """The sources, those with the largest share first."""
    both = zip(audit.sources, audit.table(share).sources, audit.table(effect).sources, strict=True)
    all_tokens = sum(source.tokens for source in audit.sources)
    found = [
        Row(
            source.name,
            own,
            net,
            source.tokens,
            None if own.value is None or not source.tokens else own.value * all_tokens / source.tokens,
        )
        for source, own, net in both
    ]
    return sorted(found, key=lambda row: (-(row.share.value or 0.0), row.name))


def heat(audit: Audit, rows: Sequence[Row]) -> tuple[list[ShareTable], list[list[Cell]]]:
    """The largest groups, and for each source its net effect in each of them."""
    tables = [table for table in audit.tables if table.scope == "group" and table.measure == "net effect"]
    largest = sorted(tables, key=lambda table: -table.weight)[:MOST_GROUPS]
    groups = sorted(largest, key=lambda table: table.group or "")
    by_source = [{share.source: share for share in table.sources} for table in groups]
    effects = [[own[row.name] for own in by_source] for row in rows]
    most = max((abs(effect.value or 0.0) for of_source in effects for effect in of_source), default=0.0) or 1.0
    return groups, [[Cell(effect, (effect.value or 0.0) / most) for effect in of_source] for of_source in effects]


def scatter(audit: Audit, means: Sequence[tuple[float, float]]) -> Plot:
    """Each source by its mean score and its mean in-context score."""
    dots = [(*mean, source.name) for mean, source in zip(means, audit.sources, strict=True)]
    return plot(
        "Influence and in-context probing",
        ("mean score, nats per unit weight", "mean in-context score, nats"),
        [Series("", dots=dots, named=True)],
        said="each source by its mean score and by its mean in-context score",
    )


def summary(audit: Audit, rows: Sequence[Row]) -> list[str]:
    """What was found, in a few sentences."""
    answers = f"{count(audit.number)} answer{'s' * (audit.number > 1)}"
    known = [row for row in rows if row.share.value is not None]
    if not known:
        return [f"No source made the {answers} likelier, so that there are no shares."]
    said = [
        f"{answers} of the model were attributed to the {count(len(rows))} sources of its training data. "
        f"{known[0].name} has the largest share of what made them likely: {percent(known[0].share)}"
        + "".join(f", then {row.name} with {percent(row.share)}" for row in known[1:3])
        + f". With equal shares each would have {100 / len(rows):.2g} %."
    ]
    unclear = sum(not row.effect.distinct for row in rows)
    if audit.number < FEWEST:
        said.append("So few answers have no intervals, and of no source can it be told that it did anything.")
    elif unclear:
        of_all = "all" if unclear == len(rows) else f"{count(unclear)} of the {count(len(rows))}"
        said.append(
            f"Of {of_all} sources it cannot be told that they did anything to these answers, for or against; their "
            "names are in brackets wherever they stand."
        )
    else:
        said.append("Of every source it can be told whether it worked for these answers or against them.")
    return said


def percent(share: SourceShare) -> str:
    """A share with its widest interval."""
    if share.value is None:
        return "–"
    ends = "" if share.widest is None else " [{:.1f}, {:.1f}]".format(*(100 * end for end in share.widest))
    return f"{100 * share.value:.1f} %{ends}"


def nats(share: SourceShare, digits: int) -> str:
    """A net effect with its widest interval."""
    if share.value is None:
        return "–"
    ends = "" if share.widest is None else " [{}, {}]".format(*(signed(end, digits) for end in share.widest))
    return signed(share.value, digits) + ends


def digits_of(rows: Sequence[Row]) -> int:
    """Behind the point, so that the largest of some net effects has three that matter."""
    largest = max((abs(row.effect.value or 0.0) for row in rows), default=0.0)
    return min(9, max(0, 2 - math.floor(math.log10(largest)))) if largest else 0


def signed(value: float, digits: int) -> str:
    """With so many digits behind the point, and a true minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def short(value: float | None) -> str:
    """A number with two digits that matter, or a dash."""
    return "–" if value is None else f"{value:+.2g}".replace("-", "−")


def count(number: float) -> str:
    """A number with commas."""
    return f"{number:,.10g}"


def _upper(share: SourceShare) -> float:
    return max(share.value or 0.0, share.widest[1] if share.widest else 0.0)
