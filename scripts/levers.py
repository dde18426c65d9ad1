"""What the levers that make a simulation cheaper than exact save, and what they change.

One run of the small GPT of scripts/fidelity.py on State of the Union speeches, by AdamW with warm-up and a cosine; all
simulations go along with it in turns, on the same batches, in one thread. Seconds are the processor's, a mean over the
steps, in units of a plain training step (transformers' model, autograd, clipping, AdamW) for each source, which is what
retraining without it costs. What a lever changes is told by the cosine between a source's displacement with it and the
exact one of the same method, and by the ratio of their norms: 10th percentile, median and 90th over the sources. Prints
JSON, one line for each setting.

Example: python scripts/levers.py                                      # 24 presidents
         python scripts/levers.py --documents --sources 100 --characters 700 --steps 40 -l horizon=5 -l horizon=20
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from dist_attr.cluster import ENVIRONMENT
from dist_attr.config import CorpusConfig, ModelConfig, TrainingConfig

MODEL = {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4, "activation_function": "gelu_pytorch_tanh"}
LEVERS = ["stride=2", "stride=4", "curvature_share=0.5", "curvature_share=0.25", "stride=2,curvature_share=0.5"]


def speeches(sources: int, characters: int, by_document: bool) -> Any:
    """A packed corpus of the beginnings of some presidents' speeches, or of some speeches, spread over time."""
    from dataclasses import replace

    from dist_attr.corpus import load_documents, load_tokenizer, pack

    said: dict[str, str] = defaultdict(str)
    first: dict[str, Any] = {}
    for speech in load_documents(CorpusConfig.model_validate({"example": "sotu"})):
        name = speech.id if by_document else speech.source
        said[name] += speech.text + "\n"
        first.setdefault(name, speech)
    names = list(said)
    chosen = [names[round(i * (len(names) - 1) / (sources - 1))] for i in range(sources)]
    documents = [replace(first[name], source=name, text=said[name][:characters]) for name in chosen]
    tokenizer = load_tokenizer("bytes", [])
    return pack(documents, tokenizer, TrainingConfig().sequence_length), len(tokenizer)


def simulations(step: Any, theta: Any, sources: int, settings: list[str]) -> dict[str, Any]:
    """By name "method" or "method lever=value,...", a simulator of all sources."""
    import torch

    from dist_attr.influence import Levers, make_simulator

    methods: tuple[Literal["tangent", "trajectory"], ...] = ("tangent", "trajectory")
    made = {}
    for method in methods:
        for setting in ["", *settings]:
            values: dict[str, Any] = {}
            for name, value in (part.split("=") for part in setting.split(",") if part):
                values[name] = float(value) if name == "curvature_share" else int(value)
            if method == "trajectory" and set(values) - {"curvature_share"}:
                continue
            made[f"{method} {setting}".strip()] = make_simulator(
                method, step, step.initial(theta), torch.ones(sources), range(sources), levers=Levers(**values)
            )
    return made


def compared(tangents: Any, exact: Any) -> dict[str, list[float]]:
    """Cosines and ratios of norms over the sources that were in a batch, 10th percentile, median, 90th."""
    import torch

    seen = exact.any(dim=1)
    tangents, exact = tangents[seen], exact[seen]
    share = torch.tensor([0.1, 0.5, 0.9])
    cosine = torch.nn.functional.cosine_similarity(tangents, exact)
    ratio = tangents.norm(dim=1) / exact.norm(dim=1)
    return {name: values.quantile(share).tolist() for name, values in (("cosine", cosine), ("norm", ratio))}


def timed(seconds: dict[str, float], name: str, work: Callable[[], object]) -> None:
    started = time.process_time()
    work()
    seconds[name] += time.process_time() - started


def main(
    levers: Annotated[list[str] | None, typer.Option("--lever", "-l", help="lever=value,...; some by default")] = None,
    sources: Annotated[int, typer.Option(min=2)] = 24,
    characters: Annotated[int, typer.Option(min=1, help="of each source")] = 4000,
    steps: Annotated[int, typer.Option(min=2)] = 100,
    documents: Annotated[bool, typer.Option("--documents", help="sources are speeches, not presidents")] = False,
    tangent_only: Annotated[bool, typer.Option("--tangent-only", help="no trajectory simulations")] = False,
) -> None:
    """Measure and print JSON lines."""
    import torch

    from dist_attr.evaluation.retraining import batches, make_optimizer, train_on_batch
    from dist_attr.influence import Batch
    from dist_attr.models import build_model
    from dist_attr.simulation.recipe import training_step

    torch.set_num_threads(1)
    corpus, vocabulary = speeches(sources, characters, documents)
    training = TrainingConfig(
        steps=steps,
        learning_rate=5e-4,
        schedule="cosine",
        warmup_steps=steps // 10,
        weight_decay=0.1,
        eps_root=1e-8,
        gradient_clipping=1.0,
    )
    length = training.sequence_length
    model = build_model(ModelConfig(config=MODEL), vocabulary=vocabulary, end_of_text=0, sequence_length=length, seed=0)
    step = training_step(model, training)
    simulated = simulations(step, step.space.read(model), sources, LEVERS if levers is None else levers)
    if tangent_only:
        simulated = {name: simulator for name, simulator in simulated.items() if name.startswith("tangent")}
    optimizer, weights = make_optimizer(model, training), torch.tensor([1.0] * sources + [0.0])
    seconds: dict[str, float] = defaultdict(float)
    present = 0
    for t, (tokens, of) in enumerate(batches(corpus, training)):
        batch = Batch(tokens[:, :-1], tokens[:, 1:], of[:, 1:])
        present += len(batch.present)
        for group in optimizer.param_groups:
            group["lr"] = step.rate(t)
        timed(seconds, "plain", lambda tokens=tokens, of=of: train_on_batch(model, optimizer, tokens, of, weights, 1.0))  # type: ignore[misc]
        for name, simulator in simulated.items():
            timed(seconds, name, lambda s=simulator, b=batch, t=t: s.advance(b, t))  # type: ignore[misc]
    plain = seconds.pop("plain")
    print(json.dumps({"parameters": step.space.size, "plain_ms": 1e3 * plain / steps, "present": present / steps}))
    for name, simulator in simulated.items():
        exact = name.split()[0]
        row: dict[str, Any] = {"plain_steps_each": seconds[name] / plain / sources}
        if name != exact:
            row["of_exact"] = seconds[name] / seconds[exact]
            row |= compared(simulator.tangents(), simulated[exact].tangents())
        print(json.dumps({name: row}), flush=True)


if __name__ == "__main__":
    wanted = {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        # glibc and OpenMP read their settings when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})
    typer.run(main)
