"""What the simulation costs, in plain training steps: seconds of one replica-step and of one tangent-step.

A plain step is what retraining without a source would cost: transformers' model, autograd, torch.optim.AdamW and
clipping. All of them train on the same global batch of 16 × 64 tokens, in one thread. Rounds take turns, and the
medians over the rounds count, since machines are noisy; time is the processor's, so that waiting for a core does not.

The processes of a run have an allocator that keeps its memory (`dist_attr.cluster.ENVIRONMENT`); so has this one, or
it starts itself again with it.

Example: python -m scripts.cost --rounds 7 --json docs/results/data/cost.json
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dist_attr.config import ModelConfig, TrainingConfig
from scripts import one_thread
from scripts.report import Report, Table

PER_PASS = 8
SOURCES = (1, 8, 24)
ACTIVATION = {"model_type": "gpt2", "n_head": 4, "activation_function": "gelu_pytorch_tanh"}
MODELS = {
    "small": (ModelConfig(config={**ACTIVATION, "n_layer": 2, "n_embd": 64}), 257),
    "1M": (ModelConfig(config={**ACTIVATION, "n_layer": 4, "n_embd": 128}), 2048),
}
TRAINING = TrainingConfig(batch_size=16, sequence_length=64, learning_rate=1e-4, weight_decay=0.1)


def workloads(config: ModelConfig, vocabulary: int) -> tuple[int, dict[str, Callable[[int], object]]]:
    """Parameters of the model, and by name what does step 0, 1, ... of a run; "plain", or a method and its sources."""
    import torch

    from dist_attr.evaluation.retraining import make_optimizer, train_on_batch
    from dist_attr.influence import Batch, make_simulator
    from dist_attr.models import build_model
    from dist_attr.simulation.recipe import training_step

    rows, length = TRAINING.batch_size, TRAINING.sequence_length
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, vocabulary, (rows, length + 1), generator=draw)
    sources = torch.randint(0, max(SOURCES), (rows, length + 1), generator=draw)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], sources[:, 1:])
    model = build_model(config, vocabulary=vocabulary, end_of_text=0, sequence_length=length, seed=0)
    step = training_step(model, TRAINING)
    theta, weights = step.space.read(model), torch.ones(max(SOURCES))
    # eps_root 0: torch's own AdamW.
    optimizer = make_optimizer(model, TRAINING.model_copy(update={"eps_root": 0.0}))
    padded = torch.cat([weights, torch.zeros(1)])
    work: dict[str, Callable[[int], object]] = {
        "plain": lambda _: train_on_batch(model, optimizer, tokens, sources, padded, TRAINING.gradient_clipping)
    }
    for method in ("trajectory", "tangent"):
        for number in SOURCES:
            simulator = make_simulator(
                method, step, step.initial(theta), weights, range(number), sources_per_pass=PER_PASS
            )
            work[f"{method} {number}"] = lambda t, simulator=simulator: simulator.advance(batch, t)  # type: ignore[misc]
    return step.space.size, work


def measure(config: ModelConfig, vocabulary: int, rounds: int) -> dict[str, Any]:
    """Median seconds of a step, and the ratio to a plain step for each replica or tangent."""
    parameters, work = workloads(config, vocabulary)
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, advance in work.items():
            repeats = 5 if name == "plain" else 1
            for repeat in range(repeats):
                started = time.process_time()
                advance(turn * repeats + repeat)
                if turn:  # the first turn warms up
                    seconds[name].append(time.process_time() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    plain = medians.pop("plain")
    # The trajectory simulator carries one replica more than it has sources: the run itself.
    carried = {name: int(name.split()[1]) + name.startswith("trajectory") for name in medians}
    ratios = {name: medians[name] / carried[name] / plain for name in medians}
    return {"parameters": parameters, "plain_seconds": plain, "plain_steps_each": ratios}


def as_table(found: Mapping[str, dict[str, Any]]) -> Table:
    """What `measure` found of each model, by its name."""
    rows = [["a plain step", *(f"{1e3 * model['plain_seconds']:.1f} ms" for model in found.values())]]
    for name in next(iter(found.values()))["plain_steps_each"]:
        method, number = name.split()
        ratios = (f"{model['plain_steps_each'][name]:.2f}" for model in found.values())
        rows.append([f"{method}, {number} source{'s' * (number != '1')}", *ratios])
    return Table(
        title="Plain training steps for each replica-step or tangent-step",
        columns=["", *(f"{name}, {model['parameters']:,} parameters" for name, model in found.items())],
        rows=rows,
    )


def main(
    rounds: Annotated[int, typer.Option(min=1, help="medians are taken over so many turns")] = 7,
    model: Annotated[list[str] | None, typer.Option(help=f"one of {', '.join(MODELS)}; all by default")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the table, as a report")] = None,
) -> None:
    """Measure and print. Example: python -m scripts.cost --rounds 7 --model small"""
    import torch

    torch.set_num_threads(1)
    started = time.monotonic()
    found = {name: measure(*MODELS[name], rounds) for name in model or MODELS}
    report = Report.of({"steps": as_table(found)}, seed=0, seconds=time.monotonic() - started)
    report.show(Console(width=120))
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.cost")
