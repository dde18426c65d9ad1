"""What a readout costs: time for one direction, in forward passes of the same query, by readout and kind of model.

A query is a prompt and a completion of equal length; a forward pass gives the log-probabilities of its completion, as
the readout does. `plain` is `vmap(jvp)` of the whole sequence's log-probabilities, all directions at once. Weights and
directions are random. Seconds are the processor's, in one thread, and rounds take turns; the best of each counts.

Example: python -m scripts.readout_speed
         python -m scripts.readout_speed --model gpt-1M --directions 32 --json docs/results/data/readout_speed.json
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from dist_attr.config import ModelConfig
from scripts import one_thread
from scripts.report import Report, Table

if TYPE_CHECKING:
    from dist_attr.influence import Sequences

GPT_1M = {"model_type": "gpt2", "n_layer": 4, "n_embd": 128, "n_head": 4}
LLAMA_30M = {
    "model_type": "llama",
    "num_hidden_layers": 8,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_attention_heads": 8,
}
MODELS = {
    "gpt-1M": (ModelConfig(config=GPT_1M), 2048),
    "llama-30M": (ModelConfig(config=LLAMA_30M), 8192),
    "llama-30M, LoRA": (ModelConfig.model_validate({"config": LLAMA_30M, "lora": {"rank": 8}}), 8192),
}
QUERIES = ((1, 32), (1, 128), (4, 128))  # how many at once, and their tokens
PER_PASS = 8


def works(at: Sequences, directions: Any, whole: Sequences, adapters: bool) -> dict[str, Callable[[], object]]:
    """By name what is timed."""
    import torch
    from torch.func import jvp, vmap

    from dist_attr.influence import central_difference_logprobs, counterfactual_logprobs, directional_logprobs

    parts = torch.split(directions, PER_PASS)

    def along(direction: Any) -> Any:
        return jvp(whole.logprobs, (whole.theta,), (direction,))[1]

    return {
        "forward": torch.no_grad()(lambda: at.logprobs(at.theta)),
        "plain": torch.no_grad()(lambda: vmap(along)(directions)),
        "linear": lambda: directional_logprobs(at, parts),
        "central difference": lambda: central_difference_logprobs(at, parts),
        "counterfactual": lambda: counterfactual_logprobs(at, parts, stacked=adapters),
    }


def measure(name: str, number: int, rounds: int) -> list[dict[str, Any]]:
    """For each size of query the seconds of a forward pass, and of a direction in such passes."""
    import torch

    from dist_attr.influence import ParameterSpace, Sequences
    from dist_attr.models import build_model, causal_forward

    config, vocabulary = MODELS[name]
    model = build_model(config, vocabulary=vocabulary, end_of_text=0, sequence_length=128, seed=0)
    space = ParameterSpace.of(model)
    theta = space.read(model)
    model.requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    directions = 0.01 * torch.randn(number, space.size, generator=draw)
    rows = []
    for queries, length in QUERIES:
        tokens, first = torch.randint(0, vocabulary, (queries, length), generator=draw), length // 2 - 1
        at = Sequences(causal_forward(model, first), space, theta, tokens, first)
        whole = Sequences(causal_forward(model), space, theta, tokens)
        seconds: dict[str, list[float]] = {}
        for turn in range(rounds + 1):
            for work, do in works(at, directions, whole, config.lora is not None).items():
                started = time.process_time()
                do()
                if turn:
                    seconds.setdefault(work, []).append(time.process_time() - started)
        forward = min(seconds.pop("forward"))
        each = {work: min(values) / number / forward for work, values in seconds.items()}
        rows.append({"model": name, "queries": queries, "tokens": length, "forward_seconds": forward, **each})
    return rows


def as_table(rows: list[dict[str, Any]]) -> Table:
    """What `measure` found, a row for each model and size of a query."""
    works = list(rows[0])[4:]
    return Table(
        title="A direction, in forward passes of the same query",
        columns=["model", "queries × tokens", "forward pass", *works],
        rows=[
            [
                row["model"],
                f"{row['queries']} × {row['tokens']}",
                f"{1e3 * row['forward_seconds']:.1f} ms",
                *(f"{row[work]:.2f}" for work in works),
            ]
            for row in rows
        ],
    )


def main(
    model: Annotated[list[str] | None, typer.Option(help=f"one of {'; '.join(MODELS)}; all by default")] = None,
    directions: Annotated[int, typer.Option(min=1)] = 16,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the tables, as a report")] = None,
) -> None:
    """Measure and print. Example: python -m scripts.readout_speed --model gpt-1M"""
    import torch

    torch.set_num_threads(1)
    started = time.monotonic()
    rows = [row for name in model or MODELS for row in measure(name, directions, rounds)]
    report = Report.of({"directions": as_table(rows)}, seed=0, seconds=time.monotonic() - started)
    report.show(Console(width=120))
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.readout_speed")
