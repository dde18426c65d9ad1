"""An audit in words and as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dist_attr.auditing import Audit, SourceShare
from dist_attr.display.comparison import verdict
from dist_attr.display.fidelity import fidelity_in_words

SHOWN = 20  # sources


def show_audit(audit: Audit, report: str, console: Console | None = None) -> None:
    """The shares over all queries, what to know of them, and where the rest lies."""
    console = console or Console()
    shares, effects = audit.table("positive share").sources, audit.table("net effect").sources
    order = sorted(range(len(shares)), key=lambda i: -(shares[i].value or 0.0))
    table = Table(
        "source", "share of positive influence", "net effect, nats per answer", "per million tokens", box=None
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for i in order[:SHOWN]:
        effect = effects[i]
        cells = [_figure(shares[i], 100, 1, " %"), _figure(effect, 1, 3, ""), _number(effect.per_million_tokens, 3)]
        # Not by colour alone: what cannot be told from nothing is in brackets too.
        name = effect.source if effect.distinct else f"({effect.source})"
        table.add_row(*(Text(cell, "" if effect.distinct else "dim") for cell in (name, *cells)))
    console.print(table)
    if len(order) > SHOWN:
        console.print(Text(f"and {len(order) - SHOWN} sources more", "dim"))
    covers = "other answers and the fidelity of the scores" if audit.covered else "other answers only"
    fidelity = fidelity_in_words(() if audit.covered is None else (audit.covered,))
    console.print(
        Text(
            f"{audit.number} answers, {audit.options.readout} readout; [95 % intervals] for {covers}; a source in "
            f"brackets cannot be told from one without effect\nfidelity: {fidelity}",
            "dim",
        )
    )
    if audit.probing is not None:
        console.print(Text(verdict(audit.probing.agreement), "dim"))
    for warning in audit.warnings:
        console.print(Text(f"note: {warning}", "yellow"))
    console.print(Text(report, "bold"), soft_wrap=True)


def _figure(share: SourceShare, scale: float, digits: int, unit: str) -> str:
    ends = "" if share.widest is None else " [{}, {}]".format(*(f"{scale * end:.{digits}f}" for end in share.widest))
    return ("–" if share.value is None else f"{scale * share.value:.{digits}f}{unit}") + ends


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}g}"
