"""What storing tangents in fewer bits does to fidelity: LDS by codec and block size, and how far scores move.

The small GPT of scripts/dial.py and its first truth, this run; retrained models that `--work` holds already are not
trained again. One exact simulation of both methods; its tangents are encoded and decoded by each codec, and read out.

Example: python -m scripts.codec_fidelity --work runs/dial --json docs/results/data/codec_fidelity.json
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from dist_attr.config import StoreConfig
from dist_attr.evaluation import lds, predicted_change
from dist_attr.store import Codec
from scripts import one_thread
from scripts.dial_benches import small_gpt
from scripts.dial_simulations import Displaced, read_out, simulate
from scripts.dial_tasks import Bench, Truth, computed
from scripts.report import Report, Table, interval

ENCODINGS = [
    ("float32", 64),
    ("bfloat16", 64),
    *(("int8", size) for size in (16, 64, 256)),
    *(("int4", size) for size in (16, 32, 64, 256)),
]


def encodings(stored: Displaced) -> Iterator[tuple[Codec, float, Displaced]]:
    """Each codec, its bits a number before compression, and the tangents after it."""
    import torch

    values = stored.tangents.numpy()
    size = values.shape[1]
    for name, block in ENCODINGS:
        codec, out = Codec.of(StoreConfig.model_validate({"codec": name, "block_size": block})), []
        for row in values:
            encoded = codec.encode(row)
            codec.decode(encoded, decoded := np.empty_like(row))
            out.append(decoded)
        bits = 8 * (encoded.values.nbytes + encoded.scales.nbytes) / size
        yield codec, bits, Displaced(stored.parameters, torch.from_numpy(np.stack(out)))


def true_changes(bench: Bench) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """What was dropped, and the outputs of the models retrained so; those that are there, or all if there are none."""
    tasks = [Truth(0, subset) for subset in range(len(bench.dropped))]
    there = [task for task in tasks if bench.found(task) is not None] or tasks
    outputs = np.array(computed(bench, there, workers=1))
    return bench.dropped[[task.subset for task in there]], outputs


def table_of(bench: Bench) -> Table:
    """A row for each codec; both methods, each in its usual readout."""
    dropped, outputs = true_changes(bench)
    counts, cells = dropped.sum(axis=1), dict[tuple[str, str], list[str]]()
    numbers, columns = np.unique(counts).tolist(), list[str]()
    for method, readout in (("trajectory", "counterfactual"), ("tangent", "linear")):
        columns += [f"{method}: scores moved", *(f"LDS, {number} dropped" for number in numbers)]
        retraining, stored = bench.at(0), simulate(bench.at(0), method, {})
        exact: NDArray[np.float64] | None = None
        for codec, bits, part in encodings(stored):
            scores = read_out(retraining, retraining.start(), part, 1.0 if method == "trajectory" else None)[readout]
            exact = scores if exact is None else exact
            moved = float(np.linalg.norm(scores - exact) / np.linalg.norm(exact))
            name = f"{codec.name}, {codec.block_size} numbers a scale" if codec.levels else codec.name
            row = cells.setdefault((name, f"{bits:.3g}"), [])
            row.append(f"{moved:.2%}")
            for number in numbers:
                chosen = counts == number
                found = lds(predicted_change(scores, dropped[chosen]), outputs[chosen], resamples=500)
                row.append(interval(found.value, found.low, found.high, digits=4))
    return Table(
        title="LDS [95 % interval] by codec, and how far scores move against float32",
        columns=["codec", "bits a parameter", *columns],
        rows=[[*names, *row] for names, row in cells.items()],
        note=f"{len(bench.retraining.queries)} queries; {len(dropped)} retrained models. Bits are before zstd.",
    )


def main(
    work_folder: Annotated[Path, typer.Option("--work", help="folder of scripts/dial.py")],
    quick: Annotated[bool, typer.Option("--quick", help="a try; measures nothing")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the table, as a report")] = None,
) -> None:
    """Simulate, encode, read out, compare. Example: python -m scripts.codec_fidelity --work runs/dial"""
    import torch

    torch.set_num_threads(1)
    work_folder.mkdir(parents=True, exist_ok=True)
    report = Report.of({"lds": table_of(small_gpt(work_folder, quick))}, seed=0, libraries=("numcodecs",))
    report.show(Console(width=160))
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.codec_fidelity")
