"""Train, simulate, serve, ask, show."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from dist_attr.config import ReadoutName, RunConfig, ServiceConfig
from dist_attr.demo.ranks import RankCheck, check_ranks
from dist_attr.demo.speeches import PRESIDENTS, TRAINING_WORDS, HeldOut, split_speeches, write_jsonl
from dist_attr.display import run_progress, show_answer, write_page
from dist_attr.serving import AttributionRequest, AttributionResponse, deploy, stop
from dist_attr.serving.client import Client
from dist_attr.simulation import simulate

SHOWN = "Barack Obama"  # a sentence that is attributed well; the table after it says how often that is so
READOUT: ReadoutName = "linear"


def demo_config(out: Path) -> RunConfig:
    """About a million parameters, a vocabulary of 2,048, 16 sources; some minutes on two cores."""
    return RunConfig.parse(
        {
            "corpus": {"path": str(out / "documents.jsonl")},
            "tokenizer": {"train": {"vocabulary": 2048}},
            "model": {
                "config": {
                    "model_type": "gpt2",
                    "n_layer": 2,
                    "n_embd": 160,
                    "n_head": 4,
                    "initializer_range": 0.05,
                    "activation_function": "gelu_pytorch_tanh",
                }
            },
            "training": {
                "steps": 300,
                "batch_size": 4,
                "sequence_length": 128,  # room for a query after a passage, in probing
                # Slow on purpose. Two runs from scratch that differ in one source drift apart by chance as well, the
                # more the larger the steps; at 3e-3 that noise drowns what a source says.
                "learning_rate": 5e-4,
                # The figures in docs/results/demo.md were measured with this; the default reaches the same loss.
                "eps_root": 1e-12,
                "schedule": "cosine",
                "warmup_steps": 10,
                "weight_decay": 0.1,
            },
            "output": str(out),
        }
    )


def run_demo(out: Path, *, port: int = 8000) -> RankCheck:
    """The whole path; prints as it goes and writes answer.html beside the store."""
    console = Console()
    training, held_out = split_speeches()
    console.print(
        f"[bold]1. Corpus[/]: {TRAINING_WORDS:,} words each of {len(PRESIDENTS)} presidents; "
        f"{len(held_out)} sentences from the ends of speeches are held out"
    )
    out.mkdir(parents=True, exist_ok=True)
    write_jsonl(training, out / "documents.jsonl")
    config = demo_config(out)
    console.print(
        f"[bold]2. Training[/] under DeepSpeed on {config.cluster.workers} Ray actors, and beside it "
        f"{len(PRESIDENTS)} replicas, each without one of the sources"
    )
    with run_progress(config) as progress:
        store = simulate(config, overwrite=True, progress=progress)
    assert store is not None
    console.print(f"   {store.url}: {store.stored_bytes / 1e6:.0f} MB")
    console.print(f"[bold]3. Serving[/] it from two shards, http://127.0.0.1:{port}")
    try:
        with console.status("starting the service"):
            deploy(ServiceConfig(store=store.url, shards=2), port=port)
        answers, check = _ask(f"http://127.0.0.1:{port}", held_out)
    finally:
        stop()
    _show(console, out, held_out, answers, check)
    return check


def _ask(endpoint: str, held_out: list[HeldOut]) -> tuple[AttributionResponse, RankCheck]:
    with Client(endpoint) as client:
        answer = client.attribute([sentence.query for sentence in held_out], readout=READOUT, tokens=True)
    return answer, check_ranks(held_out, answer)


def _show(console: Console, out: Path, held_out: list[HeldOut], answers: AttributionResponse, check: RankCheck) -> None:
    number = next(i for i, sentence in enumerate(held_out) if sentence.president == SHOWN)
    request = AttributionRequest(queries=[held_out[number].query], readout=READOUT, tokens=True)
    answer = answers.model_copy(update={"results": [answers.results[number]]})
    said = f"{SHOWN}, {held_out[number].year}; from the end of a speech, never trained on"
    console.print(f"[bold]4. Who made the model say this?[/] ({said})")
    show_answer(answer, request, console)
    table = Table(title=f"{check.sentences} held-out sentences: is their speaker ranked first?", title_justify="left")
    table.add_column("")
    table.add_column("measured", justify="right")
    table.add_column("chance", justify="right")
    table.add_row(
        "mean reciprocal rank of the speaker",
        f"{check.mean_reciprocal_rank:.3f} ± {check.standard_error:.3f}",
        f"{check.chance:.3f}",
    )
    table.add_row("speaker among the first three", f"{check.top3:.2f}", f"{3 / len(PRESIDENTS):.2f}")
    table.add_row("presidents between speaker and top source", f"{check.distance:.1f}", f"{check.chance_distance:.1f}")
    console.print(table)
    facts = {
        "said by": said,
        "held-out check": f"mean reciprocal rank of the speaker {check.mean_reciprocal_rank:.3f} ± "
        f"{check.standard_error:.3f} over {check.sentences} sentences; chance {check.chance:.3f}",
    }
    write_page(out / "answer.html", request, answer, facts)
    console.print(f"[bold]5. The same as a page[/]: {out / 'answer.html'}")
    console.print(f'   ask more: dist-attr query {out}/influence.zarr --prompt "…" --completion "…"')
