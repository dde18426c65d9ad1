"""The field on language models: LDS of dist_attr's scores and of other methods', and what a query costs with each.

Two benches (scripts/dial_benches.py): a small GPT trained from scratch, with 24 sources; SmolLM2-135M fine-tuned with
LoRA, with 12. Sources are dropped one by one, in pairs (the small GPT's) and by halves. *This run* is the retrained
model of the same seed; *any such run* the mean over four other seeds, none of which any method sees.

A setting is chosen on one half of the subsets and reported on the other (scripts/field_table.py). Seconds are the
processor's, in one thread, and ratios of what was measured in the same process. Everything finished is a file in WORK:
an interrupted run goes on there, and `--show` prints what there is.

Needs the extra `baselines`. Example: python -m scripts.field --work runs/field_gpt --json field_small_gpt.json
         python -m scripts.field --bench smollm2 --work runs/field_smollm2 --json field_smollm2.json
         python -m scripts.field --work runs/try --quick
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from scripts import dial, field_methods, field_table, one_thread
from scripts.dial import RUNS
from scripts.dial_benches import BENCHES
from scripts.dial_tasks import Bench, Task, Truth, computed
from scripts.report import Report, Table

THIS, ANY = "this run", "any such run"
TRUTHS = {"this-run": (THIS,), "any-such-run": (ANY,), "both": (THIS, ANY)}
FRESH = dial.TRUTHS[:4]  # seeds, as few as a noise ceiling needs
NOTE = (
    "figures are of every second one, the others were for choosing settings, whose grids are in the other table. "
    "A query: for all sources, in the processor's time of one forward pass of it; gradient methods take its gradient "
    "at each checkpoint and the product with a cached vector of each source, TRAK also projects the gradient; IF-CG "
    "does all of it then. Preparation: everything before, further runs included, in the time of one training."
)
console = Console(width=200)


def bench_of(name: str, folder: Path, quick: bool) -> Bench:
    """That of scripts/dial.py, with each source dropped alone as well."""
    bench = BENCHES[name](folder, quick)
    alone = np.eye(bench.dropped.shape[1], dtype=bool)
    rest = bench.dropped[bench.dropped.sum(axis=1) > 1]
    return replace(bench, dropped=np.concatenate([alone, rest]))


def all_tasks(bench: Bench, quick: bool, truths: Sequence[str]) -> list[Task]:
    """First what the first truth needs; every second subset before the others, so that a part is a fair sample."""
    subsets = [subset for start in (0, 1) for subset in range(start, len(bench.dropped), 2)]
    retrained: dict[str, list[Task]] = {
        THIS: [Truth(RUNS[0], subset) for subset in subsets],
        ANY: [Truth(seed, subset) for subset in subsets for seed in FRESH],
    }
    first, *more = truths
    return [*retrained[first], *field_methods.tasks(bench, quick), *(task for name in more for task in retrained[name])]


def finished(bench: Bench, seeds: tuple[int, ...]) -> dict[int, NDArray[np.float64]]:
    """Outputs (seeds, queries) by subset, of the subsets that are there for all seeds."""
    found = {subset: [bench.found(Truth(seed, subset)) for seed in seeds] for subset in range(len(bench.dropped))}
    return {subset: np.array(outputs) for subset, outputs in found.items() if all(one is not None for one in outputs)}


def report_of(bench: Bench, quick: bool, truths: Sequence[str], figure: Path | None) -> Report:
    """Tables of what there is."""
    sizes, drawn, tables = bench.dropped.sum(axis=1), [], dict[str, Table]()
    methods = field_methods.found(bench, quick)
    for truth, seeds, chosen in (
        (THIS, RUNS[:1], {name: grid for name, grid in methods.items() if name not in field_methods.OTHER_RUNS}),
        (ANY, FRESH, methods),
    ):
        columns = field_table.columns(truth, sizes, finished(bench, seeds))
        if truth not in truths or not columns or not chosen:
            continue
        drawn += columns
        counts = ", ".join(f"{len(column.subsets)} with {column.name.split(', ')[1]}" for column in columns)
        note = f"{len(bench.retraining.queries)} queries. Subsets: {counts}; {NOTE}"
        key = truth.replace(" ", "_")
        tables[key], tables[f"{key}_settings"] = field_table.tables(truth, columns, chosen, note)
    if figure is not None and drawn:
        field_table.draw(drawn, {n: grid for n, grid in methods.items() if n not in field_methods.OTHER_RUNS}, figure)
    return Report.of(tables, seed=RUNS[0], libraries=("dattri", "kronfluence", "bm25s"))


def main(
    work_folder: Annotated[Path, typer.Option("--work", help="folder of everything that is computed")],
    bench_name: Annotated[
        Literal["small-gpt", "smollm2"], typer.Option("--bench", help="what is trained")
    ] = "small-gpt",
    truth: Annotated[
        Literal["this-run", "any-such-run", "both"], typer.Option(help="what predictions are held against")
    ] = "both",
    quick: Annotated[bool, typer.Option("--quick", help="a try of some minutes; measures nothing")] = False,
    only_show: Annotated[bool, typer.Option("--show", help="compute nothing more")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Ray tasks at once, one thread each")] = 2,
    figure: Annotated[Path | None, typer.Option(help="SVG or PNG file to draw")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="file for all tables")] = None,
) -> None:
    """Retrain, simulate, score, and print LDS beside costs.

    Example: python -m scripts.field --work runs/field_gpt --figure docs/images/field_small_gpt.svg
    """
    work_folder.mkdir(parents=True, exist_ok=True)
    bench = bench_of(bench_name, work_folder, quick)
    if not only_show:
        computed(bench, all_tasks(bench, quick, TRUTHS[truth]), workers)
    report = report_of(bench, quick, TRUTHS[truth], figure)
    report.show(console)
    if out is not None:
        report.write(out)


if __name__ == "__main__":
    one_thread.run(main, "scripts.field")
