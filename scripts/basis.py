"""What a readout basis keeps of fidelity, and what it saves of a query's time.

Fidelity: a small GPT of scripts/dial.py, with 24 sources or, as `passages`, with 300, and its first truth, this run;
retrained models that `--work` holds already are not trained again. One exact trajectory simulation, read out linearly.
The basis is calibrated on `--calibration` pieces of the training sequences, which are no part of the queries, and its
directions are stored in int8. For each rank R: LDS,
median over sources and queries of abs(error) / abs(exact score), and the root mean square of error / error bar, which
is 1 where the bars are honest.

Time: one query of the same model, as many directions as sources without a basis, and `--rank` of them and the product
with the mixing with one. Directions are random, which changes no time. Seconds are the processor's, in one thread, the
best of the rounds; printed in forward passes of the same query, timed in turns.

Example: python -m scripts.basis --work runs/dial --json docs/results/data/basis.json
         python -m scripts.basis --model passages --work runs/passages --calibration 256
         python -m scripts.basis --work runs/try --quick
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from dist_attr.config import StoreConfig
from dist_attr.evaluation import lds, predicted_change
from dist_attr.store import Codec
from scripts import one_thread
from scripts.codec_fidelity import true_changes
from scripts.dial_benches import BENCHES
from scripts.dial_simulations import Displaced, read_out, simulate
from scripts.dial_tasks import Bench
from scripts.report import Report, Table, interval

RANKS = (1, 2, 4, 8, 12, 16, 24, 32, 64, 128)
SOURCES = (16, 64, 256, 1024, 4096)
PER_PASS = 8


def calibration_queries(bench: Bench, number: int) -> list[Any]:
    """Pieces of the training sequences, as long as the first query and cut where it is."""
    from dist_attr.readout import EncodedQuery

    corpus, like = bench.at(0).corpus, bench.retraining.queries[0]
    rows = np.random.default_rng(0).choice(len(corpus.tokens), number, replace=len(corpus.tokens) < number)
    return [EncodedQuery(tuple(corpus.tokens[row, : len(like.tokens)].tolist()), like.start) for row in rows]


def in_int8(directions: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a store gives back."""
    codec, out = Codec.of(StoreConfig(codec="int8")), np.empty_like(directions)
    for direction, decoded in zip(directions, out, strict=True):
        codec.decode(codec.encode(direction), decoded)
    return out


def fidelity(bench: Bench, calibration_number: int) -> Table:
    """A row for each rank, and for the exact readout."""
    import torch

    from dist_attr.influence import ReadoutBasis

    retraining, stored = bench.at(0), simulate(bench.at(0), "trajectory", {})
    dropped, outputs = true_changes(bench)
    counts = dropped.sum(axis=1)
    numbers = np.unique(counts).tolist()

    def fidelity_of(scores: NDArray[np.float64]) -> list[str]:
        changes = [(predicted_change(scores, dropped[counts == n]), outputs[counts == n]) for n in numbers]
        found = [lds(predicted, true, resamples=500) for predicted, true in changes]
        return [interval(one.value, one.low, one.high, digits=3) for one in found]

    calibrating = replace(retraining, queries=calibration_queries(bench, calibration_number))
    calibration = read_out(calibrating, retraining.start(), stored, None)["linear"]
    exact = read_out(retraining, retraining.start(), stored, None)["linear"]
    basis = ReadoutBasis.fit(
        [torch.from_numpy(scores)[None] for scores in calibration],
        rank=min(exact.shape[1], max(RANKS), calibration_number),
    )
    mixed = basis.mixing.float() @ stored.tangents
    directions = Displaced(stored.parameters, torch.from_numpy(in_int8(mixed.numpy())))
    stored_calibration = torch.from_numpy(read_out(calibrating, retraining.start(), directions, None)["linear"])
    basis = basis.as_stored([torch.from_numpy(s)[None] for s in calibration], [a[:, None] for a in stored_calibration])
    along = torch.from_numpy(read_out(retraining, retraining.start(), directions, None)["linear"])
    rows: list[list[str]] = []
    for rank in sorted({min(rank, basis.rank) for rank in RANKS}):
        scores = basis.of_sources(along[:, :rank].T).T.numpy()
        errors = np.stack([basis.error(of_query[:rank]).numpy() for of_query in along])
        left = scores - exact
        relative = np.median(np.abs(left) / np.abs(exact))
        bars = np.sqrt(np.mean(np.square(left / np.maximum(errors, 1e-30))))
        rows.append([str(rank), *fidelity_of(scores), f"{relative:.2g}", f"{bars:.2f}"])
    rows.append(["exact", *fidelity_of(exact), "", ""])
    return Table(
        title="What a basis keeps: LDS [95 % interval], and errors of scores",
        columns=["R", *(f"LDS, {n} dropped" for n in numbers), "median relative error", "error, in standard errors"],
        rows=rows,
        note=f"{exact.shape[1]} sources, {len(exact)} queries, {calibration_number} calibration queries.",
    )


def times(bench: Bench, sources: tuple[int, ...], rank: int, rounds: int) -> Table:
    """A row for each number of sources: the time of a query without and with a basis, in forward passes."""
    import torch

    from dist_attr.influence import ParameterSpace, Sequences, directional_logprobs
    from dist_attr.models import causal_forward

    retraining = bench.at(0)
    model, query = retraining.start(), retraining.queries[0]
    space, first = ParameterSpace.of(model), query.start - 1
    theta = space.read(model)
    model.requires_grad_(False)
    at = Sequences(causal_forward(model, first), space, theta, torch.tensor([query.tokens]), first)
    draw = torch.Generator().manual_seed(0)
    directions = 0.01 * torch.randn(PER_PASS, space.size, generator=draw)

    def read(number: int) -> Any:
        whole, rest = divmod(number, PER_PASS)
        return directional_logprobs(at, [*repeat(directions, whole), *([directions[:rest]] if rest else [])]).scores

    rows = []
    for number in sources:
        used = min(rank, number)
        mixing = torch.randn(used, number, generator=draw)
        works: dict[str, Callable[[], Any]] = {
            "forward": torch.no_grad()(lambda: at.logprobs(theta)),
            "every source": lambda number=number: read(number),  # type: ignore[misc]
            f"basis of {rank}": lambda used=used, mixing=mixing: torch.tensordot(mixing, read(used), ([0], [0])),  # type: ignore[misc]
        }
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(rounds + 1):
            for name, do in works.items():
                started = time.process_time()
                do()
                if turn:
                    seconds[name].append(time.process_time() - started)
        best = {name: min(values) for name, values in seconds.items()}
        forward = best.pop("forward")
        rows.append([f"{number:,}", *(f"{value / forward:,.0f}" for value in best.values())])
    return Table(
        title="Time of a query, in forward passes of it",
        columns=["sources", "every source", f"basis of {rank}"],
        rows=rows,
        note="Random directions; one thread.",
    )


def main(
    work_folder: Annotated[Path, typer.Option("--work", help="folder of scripts/dial.py")],
    model: Annotated[
        Literal["small-gpt", "passages"], typer.Option(help="24 sources, or 300 small ones")
    ] = "small-gpt",
    calibration: Annotated[int, typer.Option(min=8, help="queries that the basis is found from")] = 64,
    rank: Annotated[int, typer.Option(min=1, help="of the basis that is timed")] = 16,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="a try; measures nothing")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the tables, as a report")] = None,
) -> None:
    """Measure and print. Example: python -m scripts.basis --work runs/dial"""
    import torch

    torch.set_num_threads(1)
    work_folder.mkdir(parents=True, exist_ok=True)
    bench = BENCHES[model](work_folder, quick)
    tables = {
        "fidelity": fidelity(bench, calibration),
        "times": times(bench, SOURCES[:2] if quick else SOURCES, rank, 1 if quick else rounds),
    }
    report = Report.of(tables, seed=0)
    report.show(Console(width=120))
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.basis")
