"""Classifiers, every example a source: LDS of tangents and of other methods on the field's own protocols.

`mnist` and `fashion` are dattri's protocol: 784-128-64-10, 5,000 examples, SGD .01 with momentum .9, 50 epochs, and
models retrained on random halves with seeds of their own; without its dropout, and with 50 queries instead of 500.
`digits` is small: 500 examples, 64-64-10; models are retrained with the same seed and batches, without 5 % or a half.
Outputs are log-odds log p / (1 − p); a rank correlation does not tell them from losses.

A *half* run is trained on a random half of the examples and has a derivative in the weights of all of them
(scripts/mlp_runs.py). A mean over K runs is that of K such runs with other seeds. Tangents at full horizon are computed
in reverse (scripts/mlp_reverse.py), which gives the same numbers sooner when there are few queries; the simulator's own
are in the table for digits, and compared on a part of the examples for the others.

A setting is chosen on one half of the subsets and reported on the other. Everything finished is a file in WORK; an
interrupted run goes on there.

Example: python -m scripts.mlp_lds --data digits --work runs/digits
         python -m scripts.mlp_lds --data mnist --work runs/mnist --json docs/results/data/mlp_mnist.json
         python -m scripts.mlp_lds --data mnist --work runs/mnist --show
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from scripts import one_thread
from scripts.mlp_protocols import PROTOCOLS
from scripts.mlp_tables import Tables
from scripts.mlp_tasks import compute
from scripts.report import Report

console = Console(width=200)


def main(
    data: Annotated[Literal["digits", "mnist", "fashion"], typer.Option(help="the images")],
    work_folder: Annotated[Path, typer.Option("--work", help="folder of everything that is computed")],
    quick: Annotated[bool, typer.Option("--quick", help="a try of about a minute; measures nothing")] = False,
    only_show: Annotated[bool, typer.Option("--show", help="compute nothing more")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Ray tasks at once, one thread each")] = 2,
    out: Annotated[Path | None, typer.Option("--json", help="file for all tables")] = None,
) -> None:
    """Retrain, score, and print LDS beside costs.

    Example: python -m scripts.mlp_lds --data digits --work runs/digits
    """
    work_folder.mkdir(parents=True, exist_ok=True)
    protocol = PROTOCOLS[data](work_folder, quick)
    if not only_show:
        compute(protocol.bench, protocol.tasks(), workers)
    report = Report.of(Tables(protocol).all(), seed=0, libraries=("dattri", "kronfluence", "scikit-learn"))
    report.show(console)
    if out is not None:
        report.write(out)


if __name__ == "__main__":
    one_thread.run(main, "scripts.mlp_lds")
