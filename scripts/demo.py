"""The demo, measured: does a held-out sentence find its speaker, and do the scores predict retraining?

Runs `dist-attr demo` in OUT, then retrains without some of its sources, as `dist-attr evaluate --protocol
leave-source-out` does. What is retrained already is not trained again.

Example: python -m scripts.demo --out runs/demo --json docs/results/data/demo.json
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dist_attr.config import EvaluationConfig, RunConfig
from dist_attr.demo import run_demo
from dist_attr.demo.ranks import RankCheck
from dist_attr.evaluation import Estimate, RetrainingResult, evaluate
from scripts.fidelity import progress_bars
from scripts.report import Report, Table, interval


def found_again(check: RankCheck, sources: int) -> Table:
    """Where the speakers of the held-out sentences are among the sources."""
    return Table(
        title="Is the speaker of a held-out sentence ranked first?",
        columns=["", "measured", "chance"],
        rows=[
            [
                "mean reciprocal rank of the speaker",
                f"{check.mean_reciprocal_rank:.3f} ± {check.standard_error:.3f}",
                f"{check.chance:.3f}",
            ],
            [f"speaker among the first three of {sources}", f"{check.top3:.2f}", f"{3 / sources:.2f}"],
            [
                "presidents, in time, between the speaker and the top source",
                f"{check.distance:.1f}",
                f"{check.chance_distance:.1f}",
            ],
        ],
        note=f"{check.sentences} sentences; ± is the standard error of the mean.",
    )


def predicted(result: RetrainingResult) -> Table:
    """How the scores of both readouts compare with retraining."""

    def cells(estimates: list[Estimate]) -> list[str]:
        return [interval(one.value, one.low, one.high) for one in estimates]

    return Table(
        title="Do scores predict retraining without a source? [95 % interval]",
        columns=["readout", "rank correlation over sources", "Pearson", "slope"],
        rows=[
            [name, *cells([found.correlation, found.pearson, found.slope])] for name, found in result.readouts.items()
        ],
        note=f"{result.models} models, {len(result.queries)} queries. Trained again with all sources, the model's "
        f"log-probabilities are {result.repeated:.0e} nats off those of the stored one.",
    )


def main(
    out: Annotated[Path, typer.Option(help="folder of the demo, replaced if it holds an earlier one")] = Path(
        "runs/demo"
    ),
    subsets: Annotated[int, typer.Option(min=2, help="sources that are left out, each in a model of its own")] = 4,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the tables, as a report")] = None,
) -> None:
    """Run, ask, retrain, compare. Example: python -m scripts.demo --out runs/demo"""
    started = time.monotonic()
    check = run_demo(out)
    asked = EvaluationConfig.parse({"protocol": "leave-source-out", "subsets": subsets}, "the evaluation")
    with progress_bars() as bars:
        bar = bars.add_task("retraining", total=None)
        result = evaluate(
            RunConfig.load(str(out / "run.yaml")),
            asked,
            progress=lambda what, done, of: bars.update(bar, description=what, completed=done, total=of),
        )
    assert isinstance(result, RetrainingResult)
    tables = {"speakers": found_again(check, len(result.sources)), "retraining": predicted(result)}
    report = Report.of(tables, seed=0, seconds=time.monotonic() - started)
    report.show(Console())
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    typer.run(main)
