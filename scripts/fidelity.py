"""Fidelity of the scores of a small GPT against retraining.

Protocol: 24 presidents' State of the Union speeches are 24 sources, the beginning of each is trained on; a byte-level
GPT is trained from scratch with AdamW, weight decay, clipping, warm-up and a cosine. Queries are passages from later in
the speeches. The vocabulary is the bytes that occur: the embedding of a byte that never does is pushed about by noise,
one way in the run and another way without a source, and `--all-bytes` shows what that does to the linear readout.
Some sources are dropped, 2 or half of them, and the model is retrained in plain torch with the same seed and batch
order: the truth is *this run*. LDS is the rank correlation over such subsets of the predicted and the true change of
log p(completion | prompt), averaged over queries, with its 95 % bootstrap interval.

Example: python -m scripts.fidelity --json docs/results/data/fidelity.json
         python -m scripts.fidelity --quick
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import dist_attr as da
from dist_attr.cluster import ENVIRONMENT
from scripts.report import Report, Table, interval

if TYPE_CHECKING:
    from dist_attr.evaluation import Estimate

# This process trains too, and reads out.
os.environ.update({**ENVIRONMENT, "OMP_NUM_THREADS": "1"})

MODEL = {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4, "activation_function": "gelu_pytorch_tanh"}
PROMPT, COMPLETION = 32, 24  # characters
console = Console()


@dataclass(frozen=True)
class Protocol:
    """How much of everything."""

    sources: int = 24
    characters: int = 4000  # of each source to train on
    queries_per_source: int = 2
    steps: int = 300
    learning_rate: float = 5e-4
    warmup: float = 0.1  # share of the steps
    all_bytes: bool = False
    eps_root: float = 1e-8
    subsets: int = 40
    seed: int = 0

    @property
    def drops(self) -> tuple[int, int]:
        """How many sources a subset goes without: few, and half."""
        return 2, self.sources // 2


QUICK = Protocol(sources=6, characters=1500, steps=30, subsets=5)


def split_speeches(protocol: Protocol, documents: Path) -> list[da.Query]:
    """Write the training documents, presidents spread over time; the queries are from what follows in the speeches."""
    from dist_attr.config import CorpusConfig
    from dist_attr.corpus import load_documents

    said: dict[str, str] = {}
    for speech in load_documents(CorpusConfig.model_validate({"example": "sotu"})):
        said[speech.source] = said.get(speech.source, "") + speech.text + "\n"
    presidents = list(said)
    chosen = [presidents[i] for i in np.linspace(0, len(presidents) - 1, protocol.sources).round().astype(int)]
    cut, length = protocol.characters, PROMPT + COMPLETION
    lines = [json.dumps({"id": name, "source": name, "text": said[name][:cut]}) for name in chosen]
    documents.write_text("\n".join(lines), encoding="utf-8")
    draw = np.random.default_rng(protocol.seed)
    queries = []
    for name in chosen:
        for start in draw.integers(cut, len(said[name]) - length, protocol.queries_per_source):
            passage = said[name][start : start + length]
            queries.append(da.Query(prompt=passage[:PROMPT], completion=passage[PROMPT:]))
    return queries


def save_tokenizer(documents: Path, queries: list[da.Query], folder: Path) -> str:
    """Save a tokenizer of the bytes that occur, one token each; returns its path."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    texts = [json.loads(line)["text"] for line in documents.read_text(encoding="utf-8").splitlines()]
    texts += [text for query in queries for text in (query.prompt, query.completion)]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = {character for text in texts for word, _ in byte_level.pre_tokenize_str(text) for character in word}
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", *sorted(spelled)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(str(folder))
    return str(folder)


def run_config(
    protocol: Protocol, documents: Path, tokenizer: str, output: Path, method: str, workers: int
) -> da.RunConfig:
    """The training run with its simulation."""
    return da.RunConfig.model_validate(
        {
            "corpus": {"path": str(documents)},
            "tokenizer": tokenizer,
            "model": {"config": MODEL},
            "training": {
                "steps": protocol.steps,
                "learning_rate": protocol.learning_rate,
                "schedule": "cosine",
                "warmup_steps": round(protocol.warmup * protocol.steps),
                "weight_decay": 0.1,
                "eps_root": protocol.eps_root,
                "gradient_clipping": 1.0,
                "seed": protocol.seed,
            },
            "simulation": {"method": method},
            "cluster": {"workers": workers},
            "output": str(output),
        }
    )


def simulated_scores(
    config: da.RunConfig, queries: list[da.Query], readouts: tuple[Any, ...], bars: Progress
) -> dict[str, NDArray[np.float64]]:
    """(queries, sources) by readout, from a simulation of the run."""
    bar = bars.add_task(f"{config.simulation.method} simulation", total=config.training.steps)
    store = da.simulate(config, overwrite=True, progress=lambda stride: bars.update(bar, completed=stride.step))
    assert store is not None
    attributor = da.Attributor(store)
    return {
        f"{config.simulation.method}, {readout}": attributor.attribute(queries, readout).scores.astype(np.float64)
        for readout in readouts
    }


def retraining_of(config: da.RunConfig, queries: list[da.Query]) -> Any:
    """The same run in plain torch."""
    from dist_attr.corpus import end_of_text_id, load_documents, load_tokenizer, pack
    from dist_attr.evaluation import Retraining
    from dist_attr.readout import encode_query

    length = config.training.sequence_length
    tokenizer = load_tokenizer(config.tokenizer, [])
    corpus = pack(load_documents(config.corpus), tokenizer, length)
    encoded = [encode_query(query, tokenizer, length) for query in queries]
    return Retraining(config.model, config.training, corpus, len(tokenizer), end_of_text_id(tokenizer), encoded)


def relative_distance(first: Any, second: Any) -> float:
    """‖θ₁ − θ₂‖ / ‖θ₂‖ of two models."""
    from dist_attr.influence import ParameterSpace

    one, other = (ParameterSpace.of(model).read(model) for model in (first, second))
    return float((one - other).norm() / other.norm())


def measure_fidelity(protocol: Protocol, folder: Path, workers: int) -> dict[str, Any]:
    """Simulate, read out, retrain, compare."""
    from dist_attr.evaluation import Workers, drop_subsets, gradient_dot, lds, predicted_change, retrained_outputs
    from dist_attr.models import load_model

    queries = split_speeches(protocol, documents := folder / "documents.jsonl")
    tokenizer = "bytes" if protocol.all_bytes else save_tokenizer(documents, queries, folder / "tokenizer")
    with progress_bars() as bars:
        config = run_config(protocol, documents, tokenizer, folder / "trajectory", "trajectory", workers)
        scores = simulated_scores(config, queries, ("linear", "counterfactual"), bars)
        tangent = run_config(protocol, documents, tokenizer, folder / "tangent", "tangent", workers)
        scores |= simulated_scores(tangent, queries, ("linear",), bars)
        retraining = retraining_of(config, queries)
        model = load_model(f"{config.output}/model")
        scores["gradient dot product"] = gradient_dot(model, retraining.corpus, config.training, retraining.queries)
        distance = relative_distance(model, retraining.train([1.0] * protocol.sources))
        dropped = np.concatenate(
            [drop_subsets(protocol.sources, protocol.subsets, number, protocol.seed) for number in protocol.drops]
        )
        bar = bars.add_task("retraining without sources", total=len(dropped))
        (true,) = retrained_outputs(
            retraining, 1.0 - dropped, workers=Workers(workers), on_done=lambda *_: bars.update(bar, advance=1)
        )
    size = dropped.sum(axis=1)
    return {
        "lds": {
            name: {
                number: lds(predicted_change(values, dropped[size == number]), true[size == number])
                for number in protocol.drops
            }
            for name, values in scores.items()
        },
        "distance_to_plain_torch": distance,
        "queries": len(queries),
        "retrained_models": len(true),
    }


def progress_bars() -> Progress:
    """Bars with ETA, on standard error."""
    parts = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn()
    # Some tasks are minutes long: the estimate is of the last hour.
    return Progress(
        TextColumn("{task.description}"), *parts, console=Console(stderr=True), speed_estimate_period=3600.0
    )


def as_table(protocol: Protocol, found: dict[str, Any]) -> Table:
    """LDS of each method for both sizes of subsets."""
    few, half = protocol.drops
    return Table(
        title="LDS [95 % interval], this run",
        columns=["", f"{few} of {protocol.sources} dropped", f"{half} dropped"],
        rows=[[name, *(written(row[number]) for number in protocol.drops)] for name, row in found["lds"].items()],
        note=f"{found['queries']} queries, {found['retrained_models']} retrained models. Relative distance of the "
        f"run's own parameters from plain torch's: {found['distance_to_plain_torch']:.1e}.",
    )


def written(estimate: Estimate) -> str:
    return interval(estimate.value, estimate.low, estimate.high, digits=3)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="a try of half a minute; measures nothing")] = False,
    all_bytes: Annotated[bool, typer.Option("--all-bytes", help="256 bytes, most of which never occur")] = False,
    learning_rate: Annotated[float, typer.Option(min=0, help="at its peak")] = Protocol.learning_rate,
    warmup: Annotated[float, typer.Option(min=0, max=0.5, help="share of the steps")] = Protocol.warmup,
    eps_root: Annotated[float, typer.Option(min=0, help="under AdamW's square root")] = Protocol.eps_root,
    workers: Annotated[int, typer.Option(min=1, help="actors of a run, and processes that retrain")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the table, as a report")] = None,
) -> None:
    """Measure how well scores predict retraining without sources (LDS).

    Example: python -m scripts.fidelity --json docs/results/data/fidelity.json
    """
    protocol = replace(
        QUICK if quick else Protocol(),
        learning_rate=learning_rate,
        warmup=warmup,
        eps_root=eps_root,
        all_bytes=all_bytes,
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = measure_fidelity(protocol, Path(folder), workers)
    tables = {"lds": as_table(protocol, found)}
    report = Report.of(tables, seed=protocol.seed, seconds=time.monotonic() - started)
    report.show(console)
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    typer.run(main)
