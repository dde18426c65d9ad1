"""Planted facts: does attribution name the source that says a made-up fact?

A small GPT is trained from scratch on what 16 presidents said, with made-up facts in between, each in one source
(scripts/planted_material.py), and a trajectory simulation beside it. Queries ask for the answer rather than another one
of the same kind: in the very wording, in a paraphrase that shares no content word but the name, and in a paraphrase of
facts that have decoys in other sources, where words in common lead astray. A method ranks the sources by their scores;
what counts is the rank of the one in which the fact was planted. A fact that the model has not learnt can have no
source: the figures are given for all facts, and for those whose answer the model finds e times likelier.

Whatever was computed is a file in OUT: an interrupted run goes on there.

Example: python -m scripts.planted_facts --out runs/planted_facts --figure docs/images/planted_facts.svg
         python -m scripts.planted_facts --out runs/try --quick
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

import dist_attr as da
from scripts import one_thread
from scripts.icp_selection import claim
from scripts.planted_material import Amount, Fact, Material, material
from scripts.planted_methods import MARGIN, METHODS, measured
from scripts.report import Report, Table, interval

Floats = NDArray[np.float64]
VERY, PARAPHRASE, DECOYS = "the very wording", "a paraphrase", "a paraphrase, with decoys"
GROUPS = (VERY, PARAPHRASE, DECOYS)
MEASURES = ("reciprocal rank", "recall@1", "recall@3")
LEARNT = 1.0  # nats by which the model prefers the planted answer
console = Console()


@dataclass(frozen=True)
class Recipe:
    """What is trained on, and for how long."""

    amount: Amount = field(default_factory=Amount)
    steps: int = 400
    learning_rate: float = 2e-3


QUICK = Recipe(Amount(sources=4, words=100, times=1, decoys=2), steps=2)


@dataclass(frozen=True)
class Asked:
    """A fact, and how it is asked for."""

    group: str
    fact: Fact
    query: da.Query


def asked_for(facts: Sequence[Fact]) -> list[Asked]:
    """The queries of every group."""
    plain = [fact for fact in facts if not fact.decoys]
    return [
        *(Asked(VERY, fact, fact.query(paraphrased=False)) for fact in plain),
        *(Asked(PARAPHRASE, fact, fact.query(paraphrased=True)) for fact in plain),
        *(Asked(DECOYS, fact, fact.query(paraphrased=True)) for fact in facts if fact.decoys),
    ]


def run_config(recipe: Recipe, out: Path) -> da.RunConfig:
    """The demo's model on other documents, which make every name a token of its own."""
    from dist_attr.demo.run import demo_config

    settings = demo_config(out).model_dump(exclude_unset=True)
    settings["tokenizer"] = {"train": {"vocabulary": 4096}}
    settings["training"] |= {
        "steps": recipe.steps,
        "learning_rate": recipe.learning_rate,
        "batch_size": 8,
        "eps_root": 1e-8,  # the demo's 1e-12 lets rounding grow at this learning rate
        "sequence_length": 64,  # short, so that the model seldom sees a fact twice at once
        "warmup_steps": recipe.steps // 20,
    }
    return da.RunConfig.model_validate({**settings, "simulation": {"method": "trajectory"}})


def simulated(recipe: Recipe, texts: Material, out: Path) -> da.InfluenceStore:
    """The store of the run; kept in the folder."""
    from dist_attr.demo.speeches import write_jsonl
    from scripts.smollm2 import trained

    claim(out / "experiment.json", json.loads(json.dumps({"recipe": asdict(recipe), **texts.described()})))
    if not (out / "documents.jsonl").exists():
        write_jsonl(texts.documents, out / "documents.jsonl")
    trained(run_config(recipe, out), "training and simulation")
    return da.open_store(str(out / "influence.zarr"))


def placed(scores: Floats, planted: NDArray[np.int64]) -> dict[str, Floats]:
    """Of each query where the planting source comes, (queries,); ties are broken at random, and this is the mean.

    Args:
        scores: (queries, sources).
        planted: (queries,) which of them each fact is planted in.
    """
    own = np.take_along_axis(scores, planted[:, None], 1)
    above, tied = (scores > own).sum(1), (scores == own).sum(1)
    inverse = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, scores.shape[1] + 1))])
    return {
        "reciprocal rank": (inverse[above + tied] - inverse[above]) / tied,
        "recall@1": np.clip((1 - above) / tied, 0, 1),
        "recall@3": np.clip((3 - above) / tied, 0, 1),
    }


def figures(asked: Sequence[Asked], found: dict[str, Floats], sources: Sequence[str]) -> list[dict[str, Any]]:
    """For all facts and for those learnt, each group and method: means over facts, with their intervals."""
    planted = np.array([list(sources).index(each.fact.source) for each in asked])
    groups = np.array([each.group for each in asked])
    everywhere = {**{name: found[name] for name in METHODS}, "chance": np.zeros((len(asked), len(sources)))}
    rows = []
    for facts, among in {"all": np.ones(len(asked), np.bool_), "learnt": found[MARGIN] > LEARNT}.items():
        for group in GROUPS:
            own = (groups == group) & among
            for name, scores in everywhere.items():
                values = {key: mean(each) for key, each in placed(scores[own], planted[own]).items()}
                rows.append({"facts": facts, "asked in": group, "number": int(own.sum()), "method": name, **values})
    return rows


def mean(values: Floats) -> list[float]:
    """The mean over facts, and its 95 % interval if there are facts enough for one."""
    from dist_attr.probing import intervals

    ends = intervals.interval(lambda drawn: values[drawn].mean(axis=-1), len(values), 0, seed=0)
    return [float(values.mean()), *(ends or ())] if len(values) else []


def learnt(asked: Sequence[Asked], margin: Floats) -> list[dict[str, Any]]:
    """Of each group, how many times likelier the model finds the planted answer than the other one."""
    rows = []
    for group in GROUPS:
        own = margin[[each.group == group for each in asked]]
        shares = {"preferred": float((own > 0).mean()), "learnt": float((own > LEARNT).mean())}
        rows.append({"asked in": group, "number": len(own), "nats": mean(own), **shares})
    return rows


def tables(rows: list[dict[str, Any]], knowledge: list[dict[str, Any]]) -> dict[str, Table]:
    """What the model knows, and how the methods rank the planting source: of facts that were learnt, and of all."""
    known = [
        [
            row["asked in"],
            str(row["number"]),
            written(row["nats"]),
            f"× {np.exp(row['nats'][0]):.1f}",
            *(f"{row[key]:.2f}" for key in ("preferred", "learnt")),
        ]
        for row in knowledge
    ]
    columns = ["asked in", "facts", "nats in favour", "likelier", "preferred", "learnt"]
    found = {"model": Table(title="How well the trained model knows the facts", columns=columns, rows=known)}
    for name, facts in {"learnt": "facts that the model has learnt", "all": "all facts"}.items():
        own = [row for row in rows if row["facts"] == name]
        found[name] = Table(
            title=f"Rank of the planting source: {facts} [95 % interval]",
            columns=["asked in", "facts", "method", "mean reciprocal rank", "recall@1", "recall@3"],
            rows=[
                [row["asked in"], str(row["number"]), row["method"], *(written(row[key]) for key in MEASURES)]
                for row in own
            ],
        )
    return found


def written(figure: list[float]) -> str:
    """With its interval, if it has one; a dash for the mean of nothing."""
    if len(figure) == 3:
        return interval(figure[0], figure[1], figure[2])
    return f"{figure[0]:.2f}" if figure else "—"


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Mean reciprocal rank of every method, a panel for each group; of facts that were learnt."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "planted_facts"  # the same figures make the same file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(GROUPS), figsize=(11, 3), sharey=True)
    for axis, group in zip(axes, GROUPS, strict=True):
        own = {
            row["method"]: row["reciprocal rank"]
            for row in rows
            if (row["facts"], row["asked in"]) == ("learnt", group)
        }
        for place, name in enumerate(METHODS):
            if own[name]:
                value, low, high = (own[name] * 3)[:3]
                axis.plot([low, high], [place, place], color="C0", alpha=0.6)
                axis.plot(value, place, "o", color="C0")
        if own["chance"]:
            axis.axvline(own["chance"][0], color="0.6", linestyle=":")
        axis.set(title=group, xlabel="mean reciprocal rank", xlim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(METHODS)), list(METHODS))
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main(
    out: Annotated[Path, typer.Option(help="folder for everything")],
    quick: Annotated[bool, typer.Option("--quick", help="a try of seconds; measures nothing")] = False,
    figure: Annotated[Path | None, typer.Option(help="SVG or PNG file to draw")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the tables, as a report")] = None,
) -> None:
    """Plant facts, train, and see which method names their source.

    Example: python -m scripts.planted_facts --out runs/planted_facts
    """
    out.mkdir(parents=True, exist_ok=True)
    recipe = QUICK if quick else Recipe()
    texts = material(recipe.amount)
    store = simulated(recipe, texts, out)
    asked = asked_for(texts.facts)
    found = measured(store, [each.query for each in asked])
    rows = figures(asked, found, store.sources)
    report = Report.of(tables(rows, learnt(asked, found[MARGIN])), seed=store.manifest.run.training.seed)
    report.show(console)
    if figure is not None:
        draw(rows, figure)
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.planted_facts")
