"""What a source costs the tangent simulator when there are thousands, of which few are active at a time.

Sources are short pieces of State of the Union speeches, one document each; the model is the small GPT of
scripts/cost.py. For each number of sources, after as many steps of warm-up as the horizon, the mean over the steps
that follow: active sources, seconds of a step, seconds of one active source and step and the same in plain training
steps. Seconds are the processor's, in one thread. Memory is the growth of the process's resident set by the
simulation's states, divided by the sources that were in a batch so far, beside what one such state holds; and, to
compare, what all sources' states would take.

Example: python -m scripts.many_sources -n 500 -n 2000 --json docs/results/data/many_sources.json
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dist_attr.config import CorpusConfig, ModelConfig, TrainingConfig
from scripts import one_thread
from scripts.report import Report, Table

MODEL = {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4, "activation_function": "gelu_pytorch_tanh"}

MEASURED = (
    "in a batch so far",
    "active at a step",
    "a step",
    "plain steps for each active source and step",
    "state of a source",
    "memory taken, for each source that was in a batch so far",
    "what the states of all sources would take",
)


def pieces(sources: int, characters: int) -> Any:
    """A packed corpus of short documents, each a source of its own, and the size of its vocabulary."""
    from dist_attr.corpus import load_documents, load_tokenizer, pack

    documents = [
        replace(speech, id=f"{speech.id}-{first}", source=f"{speech.id}-{first}", text=text)
        for speech in load_documents(CorpusConfig.model_validate({"example": "sotu"}))
        for first in range(0, len(speech.text), characters)
        if (text := speech.text[first : first + characters].strip())
    ]
    chosen = [documents[i * len(documents) // sources] for i in range(sources)]
    tokenizer = load_tokenizer("bytes", [])
    return pack(chosen, tokenizer, TrainingConfig().sequence_length), len(tokenizer)


def measured(sources: int, characters: int, horizon: int, steps: int, per_pass: int, rows: int) -> list[str]:
    """Follow a run with so many sources and measure its last steps: a cell for each of MEASURED."""
    import psutil
    import torch

    from dist_attr.evaluation.retraining import batches
    from dist_attr.influence import Batch, Levers, make_simulator
    from dist_attr.models import build_model
    from dist_attr.simulation.recipe import training_step

    corpus, vocabulary = pieces(sources, characters)
    training = TrainingConfig(steps=horizon + steps, batch_size=rows, learning_rate=5e-4, weight_decay=0.1)
    length = training.sequence_length
    model = build_model(ModelConfig(config=MODEL), vocabulary=vocabulary, end_of_text=0, sequence_length=length, seed=0)
    step, weights = training_step(model, training), torch.ones(sources)
    start = step.initial(step.space.read(model))
    all_batches = [Batch(tokens[:, :-1], tokens[:, 1:], of[:, 1:]) for tokens, of in batches(corpus, training)]
    for batch in all_batches[:3]:
        step(start, weights, batch, 0)
    # A pass of the largest size, so that its working memory is not counted as the sources'.
    make_simulator("tangent", step, start, weights, [0] * per_pass, sources_per_pass=per_pass).advance(
        replace(all_batches[0], sources=all_batches[0].sources * 0), 0
    )
    before = psutil.Process().memory_info().rss
    simulator = make_simulator(
        "tangent", step, start, weights, range(sources), sources_per_pass=per_pass, levers=Levers(horizon)
    )
    seen: set[int] = set()
    seconds = plain = active = 0.0
    for number, batch in enumerate(all_batches):
        seen |= batch.present
        started = time.process_time()
        count = simulator.advance(batch, number)
        stopped = time.process_time()
        step(start, weights, batch, 0)
        if number >= horizon:
            active, seconds = active + count, seconds + stopped - started
            plain += time.process_time() - stopped
    state = sum(tensor.nbytes for tensor in (start.theta, *start.slots))
    return [
        str(len(seen)),
        f"{active / steps:.0f}",
        f"{seconds / steps:.2f} s",
        f"{seconds / active / (plain / steps):.2f}",
        f"{state / 1e6:.2f} MB",
        f"{(psutil.Process().memory_info().rss - before) / len(seen) / 1e6:.2f} MB",
        f"{sources * state / 1e6:,.0f} MB",
    ]


def main(
    number: Annotated[list[int], typer.Option("--number", "-n", min=2, help="of sources")] = [500, 2000],  # noqa: B006
    characters: Annotated[int, typer.Option(min=1, help="of each source")] = 400,
    horizon: Annotated[int, typer.Option(min=1)] = 20,
    steps: Annotated[int, typer.Option(min=1, help="measured, after as many as the horizon")] = 4,
    per_pass: Annotated[int, typer.Option(min=1)] = 8,
    rows: Annotated[int, typer.Option(min=1, help="sequences of 64 tokens in a batch")] = 16,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the table, as a report")] = None,
) -> None:
    """Measure and print. Example: python -m scripts.many_sources -n 500 -n 2000"""
    import torch

    torch.set_num_threads(1)
    began = time.monotonic()
    columns = [measured(sources, characters, horizon, steps, per_pass, rows) for sources in number]
    table = Table(
        title="A step of the tangent simulator",
        columns=["", *(f"{sources:,} sources" for sources in number)],
        rows=[list(cells) for cells in zip(MEASURED, *columns, strict=True)],
        note=f"Means over {steps} steps after {horizon}, the horizon; batches of {rows} × 64 tokens.",
    )
    report = Report.of({"steps": table}, seed=0, seconds=time.monotonic() - began)
    report.show(Console(width=140))
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.many_sources")
