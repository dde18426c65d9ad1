"""What `dist-attr plan` says of runs of growing size: what docs/operations.md has instead of a price list.

Each row is one plan: the State of the Union speeches with a president a source, a GPT of so many layers and so wide,
150 steps, two workers on this machine. Nothing is trained to its end.

Example: python -m scripts.plan_sizes --json docs/results/data/plan_sizes.json
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import dist_attr as da
from dist_attr.simulation import plan
from dist_attr.simulation.estimate import Estimate
from scripts.report import Report, Table

STEPS, WORKERS = 150, 2


def settings(layers: int, width: int) -> da.RunConfig:
    return da.RunConfig.parse(
        {
            "corpus": {"example": "sotu"},
            "tokenizer": {"train": {"vocabulary": 2048}},
            "model": {"config": {"model_type": "gpt2", "n_layer": layers, "n_embd": width, "n_head": 4}},
            "training": {"steps": STEPS, "batch_size": 16, "sequence_length": 64},
            "simulation": {"method": "trajectory"},
            "cluster": {"workers": WORKERS},
            "output": "runs/plan_sizes",
        }
    )


def row(name: str, estimate: Estimate) -> list[str]:
    if estimate.seconds is None or estimate.store_bytes is None or estimate.memory_bytes is None:
        return [name, *["does not fit"] * 5]
    return [
        name,
        f"{estimate.seconds / 60:.1f} min",
        f"{estimate.of_retraining:.2f}",
        f"{estimate.memory_bytes / 2**20:.0f} MiB",
        f"{estimate.store_bytes / 2**20:.0f} MiB",
        f"{estimate.query_seconds:.2f} s",
    ]


def main(
    sizes: Annotated[str, typer.Option(help="LAYERSxWIDTH, separated by commas")] = "2x64,4x128",
    json: Annotated[Path | None, typer.Option(help="write the tables as a report")] = None,
) -> None:
    """Plan each size. Example: python -m scripts.plan_sizes --sizes 2x64,4x256"""
    console, started = Console(), time.perf_counter()
    rows = []
    for size in sizes.split(","):
        layers, width = map(int, size.split("x"))
        estimates = plan(settings(layers, width))
        rows += [row(f"{layers} × {width}, {estimate.name}", estimate) for estimate in estimates[:2]]
    table = Table(
        title=f"plans: presidents of the State of the Union, {STEPS} steps, {WORKERS} workers on one machine's CPUs",
        columns=["GPT, layers × width", "time", "× retraining", "memory of an actor", "store", "query"],
        rows=rows,
        note="× retraining: the simulation's time in units of training once without each source. Store: before "
        "compression, int8. Query: linear readout of one as long as the context, all sources on one CPU.",
    )
    report = Report.of({"sizes": table}, seed=0, seconds=time.perf_counter() - started)
    report.show(console)
    if json is not None:
        report.write(json)


if __name__ == "__main__":
    typer.run(main)
