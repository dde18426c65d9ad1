"""In-context probing against influence on real text: the same domain and another, short and long passages.

`demo` is the demo's small GPT, trained from scratch on 16 presidents' speeches; `smollm2` is the fine-tuned
SmolLM2-135M of scripts/smollm2.py. Influence comes from trajectories: each replica is the model of this very run
without a source. The queries of the same domain are what those speakers said elsewhere; those of the other domain are
sentences from the documentation inside Python's standard library. The comparison itself is that of `dist-attr
compare`.

Simulations and comparisons that are finished in the folder are not done again.

Example: python -m scripts.icp_text --model demo --out runs/icp_demo --json docs/results/data/icp_demo.json
         python -m scripts.icp_text --model smollm2 --out runs/icp_smollm2 --figure docs/images/icp_text.svg
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer
from rich.console import Console

import dist_attr as da
from dist_attr.config import ProbeConfig
from scripts import one_thread
from scripts.report import Report, Table

if TYPE_CHECKING:
    from dist_attr.probing import Comparison, Estimate, Question

SAME, OTHER = "same domain", "other domain"
MODULES = ("argparse", "decimal", "doctest", "logging/__init__", "optparse", "statistics", "string", "typing")
PROMPT, COMPLETION = 40, (60, 110)  # characters, as those of the demo
console = Console()


@dataclass(frozen=True)
class Bench:
    """A model with its store, what it is asked, and how it is probed."""

    store: da.InfluenceStore
    spoken: list[da.Query]
    settings: dict[str, ProbeConfig]


def demo(out: Path, quick: bool) -> Bench:
    """The demo's model."""
    from dist_attr.demo.run import demo_config
    from dist_attr.demo.speeches import split_speeches, write_jsonl
    from scripts.smollm2 import trained

    training, held_out = split_speeches()
    if not (out / "documents.jsonl").exists():
        write_jsonl(training, out / "documents.jsonl")
    trained(demo_config(out), "training and simulation")
    settings = {
        f"{choose}, {window} tokens": ProbeConfig(documents=3, choose=choose, window=window)
        for choose in ("bm25", "random")
        for window in (10, 20, 40)
    }
    queries = [sentence.query for sentence in held_out]
    return Bench(da.open_store(str(out / "influence.zarr")), queries[: 4 if quick else None], few(settings, quick))


def smollm2(out: Path, quick: bool) -> Bench:
    """The fine-tuned one."""
    from dataclasses import replace

    from scripts import smollm2

    recipe = smollm2.QUICK if quick else replace(smollm2.Recipe(), queries_per_source=2)
    model = smollm2.export_model(out / "model")
    queries = smollm2.split_speeches(recipe, out / "documents.jsonl")
    config = smollm2.run_config(recipe, model, out / "documents.jsonl", out / "run")
    smollm2.trained(config, "fine-tuning and simulation")
    settings = {
        "random, 32 tokens": ProbeConfig(documents=1, choose="random", window=32),
        "random, 128 tokens": ProbeConfig(documents=1, choose="random", window=128),
        "random, 512 tokens": ProbeConfig(documents=1, choose="random", window=512),
        "bm25, 32 tokens": ProbeConfig(documents=1, choose="bm25", window=32),
        "bm25, 128 tokens": ProbeConfig(documents=1, choose="bm25", window=128),
    }
    return Bench(da.open_store(f"{config.output}/influence.zarr"), queries, few(settings, quick))


BENCHES: dict[str, Callable[[Path, bool], Bench]] = {"demo": demo, "smollm2": smollm2}


def few(settings: dict[str, ProbeConfig], quick: bool) -> dict[str, ProbeConfig]:
    return dict(list(settings.items())[: 1 if quick else None])


def documentation(number: int) -> list[da.Query]:
    """Sentences of docstrings, each with the words before it as its prompt, as the demo takes them from speeches."""
    found = [query for module in MODULES for text in docstrings(module) for query in sentences(text)]
    found = list({query.completion: query for query in found}.values())  # some are said of many functions
    return [found[i] for i in np.linspace(0, len(found) - 1, number).round().astype(int)]


def docstrings(module: str) -> Iterator[str]:
    source = Path(sysconfig.get_paths()["stdlib"], f"{module}.py").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield " ".join(text.split())


def sentences(text: str) -> Iterator[da.Query]:
    for match in re.finditer(r"(?<=[.!?] )[A-Z][a-z ,'-]+[.!?]", text):
        before = text[max(0, match.start() - PROMPT) : match.start()].partition(" ")[2].rstrip()
        if COMPLETION[0] <= len(match.group()) <= COMPLETION[1] and len(before) >= PROMPT // 2:
            yield da.Query(prompt=before, completion=f" {match.group()}")


def compared(bench: Bench, questions: Sequence[Question], name: str, out: Path) -> Comparison:
    """As `dist-attr compare` finds it; kept in the folder."""
    from dist_attr.display import steps_progress
    from dist_attr.probing import CompareOptions, Comparison, comparison, finished_in, measure

    options = CompareOptions(probe=bench.settings[name])
    place = finished_in(out, bench.store, questions, options)
    file = place.with_suffix(".json")
    if file.exists():
        return Comparison.model_validate_json(file.read_text(encoding="utf-8"))
    console.print(f"comparing: {name}")
    with steps_progress(name) as progress:
        measured = measure(bench.store, questions, options, folder=place, progress=progress)
    found = comparison(bench.store, measured, seed=0, command=f"python -m scripts.icp_text  # {name}")
    file.write_text(found.model_dump_json(), encoding="utf-8")
    return found


def figures(found: Comparison) -> dict[str, dict[str, Estimate | None]]:
    """Of each group of queries, what the table says."""
    return {
        str(cohort.group): {
            "per query": cohort.spearman,
            "without bm25 + tokens": cohort.partial["bm25 + tokens"],
            "all together": cohort.mean.spearman,
            "golden score": cohort.golden.spearman,
            "first source": next((top.overlap for top in cohort.overlaps if top.k == 1), None),
            "bm25": cohort.baselines["bm25"].influence,
        }
        for cohort in found.agreement.groups
    }


def written(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "—"
    low_high = "" if estimate.interval is None else " [{:.2f}, {:.2f}]".format(*estimate.interval)
    return f"{estimate.value:.2f}{low_high}"


def tables(found: dict[str, Comparison], sources: int) -> dict[str, Table]:
    """Agreement by setting and group of queries, and what a query takes either way."""
    columns = list(next(iter(figures(next(iter(found.values()))).values())))
    groups = {name: figures(each) for name, each in found.items()}
    agreement = Table(
        title="Spearman's correlation with influence [95 % interval]",
        columns=["probing", "queries", *columns],
        rows=[
            [name, group, *(written(of_group[column]) for column in columns)]
            for name, by_group in groups.items()
            for group, of_group in by_group.items()
        ],
        note=f"First source: how often both name the same one; chance is {1 / sources:.2f}. BM25: what words in common "
        "with the query say of influence.",
    )
    rows = []
    for name, each in found.items():
        ours, theirs = each.influence_cost, each.probing_cost
        cost = f"{ours.seconds:.2f} s", f"{ours.readings:.0f}", f"{theirs.seconds:.2f} s", f"{theirs.readings:.0f}"
        rows.append([name, *cost])
    costs = Table(
        title="What a query takes",
        columns=["probing", "by influence", "directions", "by probing", "prompts"],
        rows=rows,
    )
    return {"agreement": agreement, "costs": costs}


def draw(found: dict[str, Comparison], file: Path) -> None:
    """Agreement per query and of all queries together, for each setting and group."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "icp_text"  # the same figures make the same file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, column in zip(axes, ("per query", "all together"), strict=True):
        for shift, group in ((-0.12, SAME), (0.12, OTHER)):
            estimates = [figures(each)[group][column] for each in found.values()]
            for row, estimate in enumerate(estimates):
                if estimate is not None and estimate.value is not None:
                    low, high = estimate.interval or (estimate.value, estimate.value)
                    colour = "C0" if group == SAME else "C1"
                    axis.plot([low, high], [row + shift] * 2, color=colour, alpha=0.6)
                    axis.plot(estimate.value, row + shift, "o", color=colour, label=group if row == 0 else None)
        axis.axvline(0, color="0.6", linestyle=":")
        axis.set(title=column, xlabel="Spearman's correlation of probing with influence", xlim=(-1, 1))
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(found)), list(found))
    axes[0].invert_yaxis()
    axes[0].legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main(
    out: Annotated[Path, typer.Option(help="folder for everything")],
    model: Annotated[Literal["demo", "smollm2"], typer.Option(help="which model")] = "demo",
    quick: Annotated[bool, typer.Option("--quick", help="a try with few queries; measures nothing")] = False,
    figure: Annotated[Path | None, typer.Option(help="SVG or PNG file to draw")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the tables, as a report")] = None,
) -> None:
    """Compare influence and in-context probing on real text.

    Example: python -m scripts.icp_text --model demo --out runs/icp_demo
    """
    from dist_attr.probing import Question

    out.mkdir(parents=True, exist_ok=True)
    bench = BENCHES[model](out, quick)
    questions = [
        Question(id=f"{group} {number}", group=group, prompt=query.prompt, completion=query.completion)
        for group, queries in ((SAME, bench.spoken), (OTHER, documentation(len(bench.spoken))))
        for number, query in enumerate(queries)
    ]
    found = {name: compared(bench, questions, name, out) for name in bench.settings}
    report = Report.of(tables(found, len(bench.store.sources)), seed=0)
    report.show(console)
    if figure is not None:
        draw(found, figure)
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.icp_text")
