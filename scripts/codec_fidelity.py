"""What storing tangents in fewer bits does to fidelity: LDS by codec and block size, and how far scores move.

The small GPT of scripts/dial.py and its first truth, this run; retrained models that `--work` holds already are not
trained again. One exact simulation of both methods; its tangents are encoded and decoded by each codec, and read out.

Example: python -m scripts.codec_fidelity --work runs/dial
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dist_attr.config import StoreConfig
from dist_attr.evaluation import lds, predicted_change
from dist_attr.store import Codec
from scripts import one_thread
from scripts.dial_benches import small_gpt
from scripts.dial_tasks import Bench, Displaced, Truth, computed, read_out, simulate

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


def main(
    work_folder: Annotated[Path, typer.Option("--work", help="folder of scripts/dial.py")],
    quick: Annotated[bool, typer.Option("--quick", help="a try; measures nothing")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="file for all figures")] = None,
) -> None:
    """Simulate, encode, read out, compare. Example: python -m scripts.codec_fidelity --work runs/dial"""
    import torch

    torch.set_num_threads(1)
    work_folder.mkdir(parents=True, exist_ok=True)
    bench = small_gpt(work_folder, quick)
    dropped, outputs = true_changes(bench)
    counts = dropped.sum(axis=1)
    figures = []
    for method, readout in (("trajectory", "counterfactual"), ("tangent", "linear")):
        retraining, stored = bench.at(0), simulate(bench.at(0), method, {})
        exact: NDArray[np.float64] | None = None
        for codec, bits, part in encodings(stored):
            scores = read_out(retraining, retraining.start(), part, 1.0 if method == "trajectory" else None)[readout]
            exact = scores if exact is None else exact
            moved = float(np.linalg.norm(scores - exact) / np.linalg.norm(exact))
            values = {
                int(n): lds(predicted_change(scores, dropped[counts == n]), outputs[counts == n], resamples=500)
                for n in np.unique(counts)
            }
            figures.append((method, codec, bits, moved, values))
    numbers = [int(n) for n in np.unique(counts)]
    table = Table("method", "codec", "block", "bits", "scores moved", *(f"LDS, {n} dropped" for n in numbers))
    for method, codec, bits, moved, values in figures:
        block = str(codec.block_size) if codec.levels else "–"
        table.add_row(
            method, codec.name, block, f"{bits:.2f}", f"{moved:.2%}", *(f"{values[n].value:.4f}" for n in numbers)
        )
    Console(width=120).print(table)
    if out is not None:
        rows = [
            {
                "method": method,
                "codec": codec.name,
                "block_size": codec.block_size,
                "bits": bits,
                "scores_moved": moved,
                "lds": {n: found.value for n, found in values.items()},
            }
            for method, codec, bits, moved, values in figures
        ]
        out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    one_thread.run(main, "scripts.codec_fidelity")
