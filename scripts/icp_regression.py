"""In-context probing against influence where influence is known exactly: linear regression.

After Jiao et al., On the Feasibility of In-Context Probing for Data Attribution (2024): a small transformer, trained to
answer regression queries from the pairs in its context, is probed for what a pair does to its answer. A pair's score is
what the query's log p gains by it, alone against the empty context, or as one of all n pairs, left out of the context.
The truth is ridge regression trained on the same n pairs, and trained again without the pair.

Beside it stand the influence function, this package's simulators beside gradient descent on the n pairs, and, to tell
what a pair alone can say from what a transformer makes of it, ridge regression on the pair alone. The order of a
context ought not to matter; how far two orders of it agree limits how far a probe can agree with anything else.

The trained transformer and all scores are files in OUT, and are used again where their recipe is the same: an
interrupted run goes on there. In all about 20 minutes of a processor core.

Example: python -m scripts.icp_regression --out runs/icp_regression --figure docs/images/icp_regression.svg
         python -m scripts.icp_regression --out runs/try --quick
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console

from dist_attr.probing import agreement
from scripts import icp_linear, one_thread
from scripts.fidelity import progress_bars
from scripts.icp_figures import draw_agreement
from scripts.icp_linear import DOMAINS, Floats, Tasks
from scripts.icp_transformer import InContextRegressor, Recipe, load, probe_alone, probe_left_out, save, train
from scripts.report import Report, Table

if TYPE_CHECKING:
    from dist_attr.probing.figures import Cohort, Estimate

TRUTH = "ridge, left out"
LEFT_OUT, ALONE, ORDERS = "probing, left out", "probing, alone", "probing, left out, mean of orders"
TRAJECTORY, TANGENT = "trajectory", "tangent"
FUNCTION, ONE_PAIR, AT_ZERO = "influence function", "ridge, alone", "gradient dot product at w = 0"
OTHER_ORDER = "other order"
METHODS = (TRAJECTORY, TANGENT, FUNCTION, LEFT_OUT, ORDERS, ALONE, ONE_PAIR, AT_ZERO)  # against the truth
RELIABILITY, FAITHFULNESS, EXACTNESS = (
    "two orders of probing",
    "probing and ridge, alone",
    "tangent and influence function",
)
EACH_OTHER = {  # against each other
    RELIABILITY: (LEFT_OUT, OTHER_ORDER),
    FAITHFULNESS: (ALONE, ONE_PAIR),
    EXACTNESS: (FUNCTION, TANGENT),
}
ROWS = (*METHODS, *EACH_OTHER)
DRAWN = (TRAJECTORY, ORDERS, LEFT_OUT, ALONE, ONE_PAIR)
SPEARMAN, TOPS = "Spearman", (1, 3)
console = Console()


@dataclass(frozen=True)
class Experiment:
    """How much of everything."""

    recipe: Recipe = field(default_factory=Recipe)
    pairs: tuple[int, ...] = (5, 10, 20)
    tasks: int = 256  # for each noise and number of pairs
    simulated: int = 16  # of these
    accuracy: float = 1e-14  # of gradient descent; tangents converge last
    orders: int = 4  # of a context


TINY = Recipe(pairs=6, noises=(0.3,), width=16, layers=1, heads=2, steps=20)
QUICK = Experiment(TINY, pairs=(4, 6), tasks=8, simulated=2, accuracy=1e-12, orders=2)


@dataclass(frozen=True)
class Setting:
    """A noise and a number of pairs."""

    noise: float
    pairs: int

    def __str__(self) -> str:
        return f"noise {self.noise} pairs {self.pairs}"

    def tasks(self, experiment: Experiment) -> Tasks:
        """Its tasks, always the same."""
        seed = round(1000 * self.noise) * 1000 + self.pairs
        return icp_linear.draw(experiment.tasks, self.pairs, experiment.recipe.dimensions, self.noise, seed)


def settings(experiment: Experiment) -> Iterator[Setting]:
    for noise in experiment.recipe.noises:
        for pairs in experiment.pairs:
            yield Setting(noise, pairs)


def compute(experiment: Experiment, model: InContextRegressor, setting: Setting) -> dict[str, Any]:
    """All scores of a setting by method, predictions, and the processor's seconds by method: of a query, of a task."""
    tasks = setting.tasks(experiment)
    found: dict[str, Any] = {}
    methods: dict[str, Callable[[Tasks], Floats]] = {
        TRUTH: icp_linear.left_out,
        FUNCTION: icp_linear.influence_function,
        ONE_PAIR: icp_linear.alone,
        AT_ZERO: icp_linear.gradient_at_zero,
        ALONE: lambda tasks: probe_alone(model, tasks),
    }
    for name, method in methods.items():
        started = time.process_time()
        found[name] = method(tasks)
        found[f"seconds a query: {name}"] = (time.process_time() - started) / tasks.answers.size
    started = time.process_time()
    in_orders = [probe_left_out(model, tasks, order) for order in range(experiment.orders)]
    found[ORDERS] = np.mean([scores for scores, _ in in_orders], axis=0)
    seconds = (time.process_time() - started) / tasks.answers.size
    found[f"seconds a query: {LEFT_OUT}"] = seconds / experiment.orders
    found[f"seconds a query: {ORDERS}"] = seconds
    (found[LEFT_OUT], found["predictions"]), (found[OTHER_ORDER], _) = in_orders[:2]
    by_simulator = icp_linear.simulate(tasks.first(experiment.simulated), experiment.accuracy)
    for name, scores in by_simulator.scores.items():
        found[name] = scores
        found[f"seconds a query: {name}"] = by_simulator.query[name]
        found[f"seconds a task: {name}"] = by_simulator.once[name]
    w = icp_linear.ridge(tasks.x, tasks.y, tasks.penalty)
    found["ridge"] = np.einsum("tqd,td->tq", tasks.queries, w)
    return found


def kept(experiment: Experiment, model: InContextRegressor, setting: Setting, folder: Path) -> dict[str, Any]:
    """The same, from the file of the setting where that is of this experiment."""
    file, recipe = folder / f"{setting}.npz", json.dumps(asdict(experiment) | {"setting": str(setting)})
    if file.exists():
        with np.load(file) as opened:
            if str(opened["recipe"]) == recipe:
                return dict(opened)
    partial = file.with_suffix(".tmp.npz")
    np.savez(partial, recipe=np.array(recipe), **compute(experiment, model, setting))
    partial.replace(file)
    with np.load(file) as opened:
        return dict(opened)


def compared(found: dict[str, Any], row: str, domain: int) -> Cohort:
    """How a method agrees with the truth, or two with each other, on the queries of a domain, one of each task."""
    first, second = (found[name][:, domain] for name in EACH_OTHER.get(row, (TRUTH, row)))
    both = min(len(first), len(second))
    return agreement(first[:both], second[:both], ks=TOPS).overall


def figures(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Agreement by domain and row: each measure with its interval."""
    by_domain: dict[str, dict[str, Any]] = {}
    for number, domain in enumerate(DOMAINS):
        rows = by_domain[domain] = {}
        for row in ROWS:
            cohort = compared(found, row, number)
            tops = {f"top {k}": overlap.overlap for k, overlap in zip(TOPS, cohort.overlaps, strict=True)}
            rows[row] = {name: _triple(estimate) for name, estimate in {SPEARMAN: cohort.spearman, **tops}.items()}
    return by_domain


def _triple(estimate: Estimate) -> list[float | None]:
    low, high = estimate.interval or (None, None)
    return [estimate.value, low, high]


def nearness(experiment: Experiment, setting: Setting, found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By domain, mean squares: errors of transformer and ridge, how far apart they are, what one pair moves ridge."""
    tasks = setting.tasks(experiment)
    moves = np.empty_like(found[TRUTH])
    for left in range(setting.pairs):
        w = icp_linear.ridge(np.delete(tasks.x, left, 1), np.delete(tasks.y, left, 1), tasks.penalty)
        moves[..., left] = found["ridge"] - np.einsum("tqd,td->tq", tasks.queries, w)
    squares = {
        "error of the transformer": (found["predictions"] - tasks.answers) ** 2,
        "error of ridge regression": (found["ridge"] - tasks.answers) ** 2,
        "between the two": (found["predictions"] - found["ridge"]) ** 2,
        "moved by a pair": (moves**2).mean(axis=2),
    }
    return {d: {name: float(s[:, i].mean()) for name, s in squares.items()} for i, d in enumerate(DOMAINS)}


def costs(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Milliseconds of the processor by method: for each query, and once for each task."""
    return {
        name: {"query": 1e3 * float(found[key]), "task": 1e3 * float(found.get(f"seconds a task: {name}", 0.0))}
        for key in found
        if key.startswith("seconds a query: ")
        for name in [key.removeprefix("seconds a query: ")]
    }


def tables(results: list[dict[str, Any]]) -> dict[str, Table]:
    """Of each noise how methods agree, and how good the transformer is; and of costs."""
    found, pairs = dict[str, Table](), list(dict.fromkeys(r["pairs"] for r in results))
    columns = [f"{number} pairs" for number in pairs]
    for noise in dict.fromkeys(r["noise"] for r in results):
        rows = [r for r in results if r["noise"] == noise]
        shown = [(r, SPEARMAN) for r in rows] + [(rows[-1], f"top {k}") for k in TOPS]
        found[f"agreement_{noise}"] = Table(
            title=f"Agreement [95 % interval], noise {noise}: Spearman, and the share of the top that is found",
            columns=["query", "", *columns, *(f"{columns[-1]}, top {k}" for k in TOPS)],
            rows=[
                [domain, name, *(_cell(r["agreement"][domain][name][measure]) for r, measure in shown)]
                for domain in DOMAINS
                for name in ROWS
            ],
            note=f"Against {TRUTH}, but for a query's last {len(EACH_OTHER)} rows, which are of two with each other.",
        )
        found[f"nearness_{noise}"] = Table(
            title=f"Predictions, noise {noise}",
            columns=["query", "mean squares", *columns],
            rows=[
                [domain, name, *(f"{r['nearness'][domain][name]:.3g}" for r in rows)]
                for domain in DOMAINS
                for name in rows[0]["nearness"][domain]
            ],
        )
    most, cells = [r["milliseconds"] for r in results if r["pairs"] == pairs[-1]], list[list[str]]()
    for name in most[0]:
        each, once = (np.mean([one[name][what] for one in most]) for what in ("query", "task"))
        cells.append([name, f"{each:.3f} ms", f"{once:.0f} ms" if once else ""])
    title = f"Time of the processor, {pairs[-1]} pairs"
    return {**found, "costs": Table(title=title, columns=["method", "each query", "once for a task"], rows=cells)}


def _cell(figure: list[float | None]) -> str:
    value, low, high = figure
    return "" if value is None else f"{value:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def main(
    out: Annotated[Path, typer.Option(help="folder of the transformer and of all scores")],
    quick: Annotated[bool, typer.Option("--quick", help="a try of seconds; measures nothing")] = False,
    figure: Annotated[Path | None, typer.Option(help="SVG or PNG file to draw")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the tables, as a report")] = None,
) -> None:
    """Train, probe, simulate, and print how they agree.

    Example: python -m scripts.icp_regression --out runs/icp_regression
    """
    import torch

    torch.set_num_threads(1)
    experiment, results = QUICK if quick else Experiment(), list[dict[str, Any]]()
    out.mkdir(parents=True, exist_ok=True)
    with progress_bars() as bars:
        if (model := load(experiment.recipe, out / "transformer.safetensors")) is None:
            bar = bars.add_task("training the transformer", total=experiment.recipe.steps)
            model = train(experiment.recipe, lambda: bars.update(bar, advance=1))
            save(model, out / "transformer.safetensors")
        every = list(settings(experiment))
        for setting in bars.track(every, description="probing and simulating"):
            found = kept(experiment, model, setting, out)
            results.append(
                asdict(setting)
                | {"agreement": figures(found), "nearness": nearness(experiment, setting, found)}
                | {"milliseconds": costs(found)}
            )
    report = Report.of(tables(results), seed=0)
    report.show(console)
    if figure is not None:
        draw_agreement(results, DRAWN, figure)
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.icp_regression")
