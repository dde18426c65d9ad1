"""Poisoned sources: does attribution find those that are wrong?

Two benches. Text (scripts/poisoned_text.py): 24 sources, some with their words shuffled, some that tell falsehoods.
Digits (scripts/poisoned_digits.py): 100 sources, some labelled wrongly. A method gives every source a figure
(scripts/poisoned_methods.py), and what counts is how surely it puts a poisoned source above an honest one: the area
under its ROC curve, 1 for always, 0.5 for chance. Sources, poison, initial weights and batch order are drawn anew for
every draw; the interval is over draws.

What was computed is a file in OUT: an interrupted run goes on there.

Example: python -m scripts.poisoned_source --out runs/poisoned --figure docs/images/poisoned_source.svg
         python -m scripts.poisoned_source --out runs/try --quick
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from scripts import one_thread, poisoned_digits, poisoned_text
from scripts.icp_selection import claim
from scripts.planted_facts import mean, written
from scripts.poisoned_methods import Floats, Method, Trained, suspicion
from scripts.report import Report, Table

console = Console(width=120)


@dataclass(frozen=True)
class Bench:
    """What is poisoned and trained.

    Attributes:
        title: for the table and the figure.
        kinds: names of what is done to sources; kind 1 is the first.
        trained: a training with its simulation, from a recipe and the number of the draw.
        recipe, quick: how much of everything.
    """

    title: str
    kinds: tuple[str, ...]
    trained: Callable[[Any, int], Trained]
    recipe: Any
    quick: Any


BENCHES = {
    "text": Bench("Text", poisoned_text.KINDS, poisoned_text.trained, poisoned_text.Recipe(), poisoned_text.QUICK),
    "digits": Bench(
        "Digits", poisoned_digits.KINDS, poisoned_digits.trained, poisoned_digits.Recipe(), poisoned_digits.QUICK
    ),
}


def auc(figures: Floats, poisoned: NDArray[np.bool_], honest: NDArray[np.bool_]) -> float:
    """How often a poisoned source is above an honest one, ties counted half: the area under the ROC curve."""
    from scipy.stats import mannwhitneyu

    above = mannwhitneyu(figures[poisoned], figures[honest]).statistic
    return float(above / (poisoned.sum() * honest.sum()))


def found_by(bench: Bench, recipe: Any, draw: int, out: Path) -> dict[Method, Floats]:
    """AUC of each method for each kind of poison, (kinds,); kept in the folder."""
    file = out / f"{bench.title} {draw}.npz"
    if not file.exists():
        trained = bench.trained(recipe, draw)
        honest = trained.kinds == 0
        values = {
            "|".join(method): np.array(
                [auc(figures, trained.kinds == kind, honest) for kind in range(1, len(bench.kinds) + 1)]
            )
            for method, figures in suspicion(trained).items()
        }
        np.savez(partial := out / "partial.npz", **values)  # type: ignore[arg-type]
        partial.replace(file)
    with np.load(file) as kept:
        return {(signal, name): kept[f"{signal}|{name}"] for signal, name in (each.split("|") for each in kept.files)}


def as_table(bench: Bench, draws: Sequence[dict[Method, Floats]]) -> Table:
    """The mean over draws of each method's AUC, a column for each kind of poison."""
    rows = [[*method, *map(written, over(draws, method))] for method in sorted(draws[0])]
    rows.append(["chance", "", *["0.50"] * len(bench.kinds)])
    return Table(
        title=f"{bench.title}: area under the ROC curve, mean of {len(draws)} draws [95 % interval over draws]",
        columns=["signal", "from", *bench.kinds],
        rows=rows,
    )


def over(draws: Sequence[dict[Method, Floats]], method: Method) -> list[list[float]]:
    """Of each kind of poison the mean over draws, and the ends of its interval if it has one."""
    return [mean(of_kind) for of_kind in np.stack([draw[method] for draw in draws]).T]


def draw_figure(found: dict[str, Sequence[dict[Method, Floats]]], file: Path) -> None:
    """AUC of every method, a panel for each kind of poison."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "poisoned_source"  # the same figures make the same file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(found), 2, figsize=(11, 3.8 * len(found)), sharex=True, sharey="row", squeeze=False)
    for row, (name, draws) in zip(axes, found.items(), strict=True):
        methods = sorted(draws[0])
        for kind, (axis, title) in enumerate(zip(row, BENCHES[name].kinds, strict=True)):
            for place, method in enumerate(methods):
                value, low, high = (over(draws, method)[kind] * 3)[:3]
                axis.plot([low, high], [place, place], color="C0", alpha=0.6)
                axis.plot(value, place, "o", color="C0")
            axis.axvline(0.5, color="0.6", linestyle=":")
            axis.set(title=f"{BENCHES[name].title.lower()}: {title}", xlabel="area under the ROC curve", xlim=(0, 1.02))
            axis.grid(alpha=0.3)
        row[0].set_yticks(range(len(methods)), [": ".join(method) for method in methods])
        row[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main(
    out: Annotated[Path, typer.Option(help="folder of all that is computed")],
    bench: Annotated[list[str] | None, typer.Option(help=f"one of {', '.join(BENCHES)}; all by default")] = None,
    draws: Annotated[int, typer.Option(min=1, help="of sources, poison, initial weights and order")] = 8,
    quick: Annotated[bool, typer.Option("--quick", help="a try of seconds; measures nothing")] = False,
    figure: Annotated[Path | None, typer.Option(help="SVG or PNG file to draw")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the tables, as a report")] = None,
) -> None:
    """Poison sources, train, and see which method finds them.

    Example: python -m scripts.poisoned_source --out runs/poisoned
    """
    import torch

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Sequence[dict[Method, Floats]]] = {}
    for name in bench or BENCHES:
        own = BENCHES[name]
        recipe = own.quick if quick else own.recipe
        claim(out / f"{name}.json", asdict(recipe))
        console.print(f"{own.title.lower()}: {draws} draws")
        found[name] = [found_by(own, recipe, draw, out) for draw in range(draws)]
    tables = {name: as_table(BENCHES[name], each) for name, each in found.items()}
    report = Report.of(tables, seed=0, libraries=["scikit-learn"])
    report.show(console)
    if figure is not None:
        draw_figure(found, figure)
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.poisoned_source")
