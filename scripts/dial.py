"""The dial: fidelity (LDS) against cost for every lever that makes a simulation cheaper, against both truths.

Protocol of scripts/fidelity.py: a small GPT trained from scratch on the beginnings of 24 presidents' speeches, 48
queries, 40 subsets that drop 2 sources and 40 that drop half. *This run* is the retrained model of the same seed; *any
such run* the mean over five other seeds, of initial weights and batch order alike, and no simulation has one of those.
Beside the second truth stands its noise ceiling.

Costs are seconds of the processor, in turns with the plain training of the same run, as a share of one training for
each source, which is what retraining without each source costs. An average over K runs pays for their simulations and
for the K − 1 further trainings. Trajectories are read out as counterfactuals, the others linearly. The full simulation
is the trajectory without levers.

Every finished simulation and retraining is a file in WORK: an interrupted run goes on there, and `--show` prints and
draws what there is. All of it takes more than two hours of a processor core.

Example: python -m scripts.dial --work runs/dial --figure docs/images/dial.svg --json docs/results/data/dial.json
         python -m scripts.dial --work runs/dial --show
         python -m scripts.dial --work runs/try --quick
         python -m scripts.dial --work runs/field_smollm2 --model smollm2      # a fine-tune, about half an hour
         python -m scripts.dial --work runs/dial_passages --model passages     # 300 small sources, about 40 minutes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from dist_attr.evaluation import lds, noise_ceiling, predicted_change
from scripts import one_thread
from scripts.dial_benches import BENCHES
from scripts.dial_tasks import Bench, Simulation, Truth, computed
from scripts.report import Report, Table, interval

EXACT = "trajectory"
SHARES = ("0.5", "0.25", "0.125", "0.0625")
WEIGHTED = {"0.5": ("0.6",), "0.25": ("0.7", "0.4"), "0.125": ("0.4", "0.25"), "0.0625": ("0.2",)}  # weights by share
WINDOWS = ("0.75", "0.67", "0.5", "0.33", "0.2")
# Near a quarter of the cost: found by trying, on the first truth.
TUNED = (
    ("0.1875", "0.6", "0.67"),
    ("0.25", "0.8", "0.6"),
    ("0.25", "0.7", "0.6"),
    ("0.25", "0.6", "0.6"),
    ("0.25", "0.7", "0.67"),
)
STEADY = f"{EXACT} curvature_share=0.25 curvature_weight=0.4"
CHEAPEST = f"{EXACT} curvature_share=0.0625 curvature_weight=0.2"
HORIZONS = "tangent, horizon"
LEVERS = {
    EXACT: [EXACT],
    "trajectory, share 0.25, weight 0.4": [STEADY],
    "trajectory, share": [EXACT, *(f"{EXACT} curvature_share={share}" for share in SHARES)],
    "trajectory, share and weight": [
        f"{EXACT} curvature_share={share} curvature_weight={weight}"
        for share, weights in WEIGHTED.items()
        for weight in weights
    ],
    "trajectory, window": [EXACT, *(f"{EXACT} window={window}" for window in WINDOWS)],
    "trajectory, share 0.25, weight 0.4, window": [STEADY, *(f"{STEADY} window={window}" for window in WINDOWS)],
    "trajectory, share, weight and window, tuned": [
        f"{EXACT} curvature_share={share} curvature_weight={weight} window={window}" for share, weight, window in TUNED
    ],
    "tangent, share": ["tangent", *(f"tangent curvature_share={share}" for share in SHARES)],
    "tangent, stride": ["tangent", *(f"tangent stride={stride}" for stride in (2, 3, 4))],
    HORIZONS: [*(f"tangent horizon={horizon}" for horizon in (5, 10, 20, 50)), "tangent"],
    "gradient dot product": ["gradient", "gradient checkpoints=2", "gradient checkpoints=4", "gradient checkpoints=8"],
}
AVERAGED = ("gradient", CHEAPEST, EXACT)  # over runs of other seeds
RUNS, TRUTHS = (0, 6, 7, 8, 9), (1, 2, 3, 4, 5)  # seeds
NEAR, CHEAP = 0.05, 0.25  # what a lever should reach
console = Console()


@dataclass(frozen=True)
class Point:
    """A setting, or its average over runs.

    Attributes:
        curve: in the figure.
        label: in the table.
        cost: share of one training for each source.
        fidelity: LDS by truth and number of dropped sources.
    """

    curve: str
    label: str
    cost: float
    fidelity: dict[str, Any]


def all_tasks(bench: Bench) -> list[Truth | Simulation]:
    """First what the first truth needs; every second subset before the others, so that a part is a fair sample."""
    subsets = [subset for start in (0, 1) for subset in range(start, len(bench.dropped), 2)]
    settings = dict.fromkeys(setting for curve in bench.levers or LEVERS for setting in LEVERS[curve])
    tasks: list[Truth | Simulation] = [
        *(Truth(RUNS[0], subset) for subset in subsets),
        *(Simulation(RUNS[0], setting) for setting in settings),
    ]
    if not bench.levers:
        tasks += [Truth(seed, subset) for subset in subsets for seed in TRUTHS]
        tasks += [Simulation(seed, setting) for setting in AVERAGED for seed in RUNS[1:]]
    return tasks


class Outcome:
    """What the folder says about a bench."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._size = bench.dropped.sum(axis=1)
        self.drops = sorted(set(self._size.tolist()))
        truths = {"this run": self._truth(RUNS[:1]), "any such run": self._truth(TRUTHS)}
        self.truths = {name: truth for name, truth in truths.items() if len(truth[0])}

    def _truth(self, seeds: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The subsets that are there for all seeds, and the outputs (seeds, subsets, queries)."""
        found = [[self._bench.found(Truth(seed, i)) for seed in seeds] for i in range(len(self._size))]
        there = [i for i, of_seeds in enumerate(found) if all(outputs is not None for outputs in of_seeds)]
        return np.array(there, np.int64), np.array([[found[i][n] for i in there] for n in range(len(seeds))])

    def ceilings(self) -> dict[str, float]:
        """Of the second truth, by number of dropped sources."""
        if "any such run" not in self.truths:
            return {}
        there, outputs = self.truths["any such run"]
        counted = [n for n in self.drops if (self._size[there] == n).sum() >= 3]
        return {str(n): noise_ceiling(outputs[:, self._size[there] == n]) for n in counted}

    def fidelity_of(self, scores: NDArray[np.float64], truths: Sequence[str]) -> dict[str, Any]:
        """LDS of scores (queries, sources) by truth and number of dropped sources."""
        found: dict[str, Any] = {}
        for name in truths:
            there, outputs = self.truths[name]
            for number in self.drops:
                chosen = self._size[there] == number
                if chosen.sum() < 3:
                    continue
                predicted = predicted_change(scores, self._bench.dropped[there[chosen]])
                found[f"{name}, {number}"] = lds(predicted, outputs[:, chosen].mean(axis=0), resamples=500)
        return found

    def points(self) -> Iterator[Point]:
        """All settings of the first run, then the averages."""
        for lever, settings in LEVERS.items():
            for setting in settings:
                if (loaded := self._bench.found(Simulation(RUNS[0], setting))) is None:
                    continue
                found = self.fidelity_of(scores_of(loaded), list(self.truths))
                yield Point(lever, in_words(setting), float(loaded["cost"]), found)
        sources = self._bench.dropped.shape[1]
        for setting in AVERAGED if "any such run" in self.truths else ():
            of_seeds = [self._bench.found(Simulation(seed, setting)) for seed in RUNS]
            runs = [loaded for loaded in of_seeds if loaded is not None]
            for number in range(1, len(runs) + 1):
                scores = np.mean([scores_of(loaded) for loaded in runs[:number]], axis=0)
                cost = sum(float(loaded["cost"]) for loaded in runs[:number]) + (number - 1) / sources
                label = f"{in_words(setting)}, mean of {number} runs" if number > 1 else in_words(setting)
                truths = ["any such run"] if number > 1 else list(self.truths)
                yield Point(f"{in_words(setting)}, means over runs", label, cost, self.fidelity_of(scores, truths))


def scores_of(loaded: Any) -> NDArray[np.float64]:
    """Of a simulation, as they are read out by default for its method: (queries, sources)."""
    scores: NDArray[np.float64] = loaded["counterfactual" if "counterfactual" in loaded.dtype.names else "linear"]
    return scores


def in_words(setting: str) -> str:
    """A simulation's name for readers, as in "trajectory, share 0.25, weight 0.4"."""
    method, *levers = setting.split()
    parts = [lever.removeprefix("curvature_").split("=") for lever in levers]
    words = [f"{value} {name}" if name == "checkpoints" else f"{name} {value}" for name, value in parts]
    return ", ".join(["gradient dot product" if method == "gradient" else method, *words])


def table_of(bench: Bench, points: Sequence[Point], ceilings: dict[str, float]) -> Table:
    """A row for each setting, which may be on several curves, and for the noise ceiling."""
    columns = list(dict.fromkeys(name for point in points for name in point.fidelity))
    rows = [["noise ceiling", "", *(ceiling_of(name, ceilings) for name in columns)]] if ceilings else []
    for point in {point.label: point for point in points}.values():
        cells = [point.fidelity.get(name) for name in columns]
        shown = ["" if one is None else interval(one.value, one.low, one.high, digits=3) for one in cells]
        rows.append([point.label, f"{point.cost:.3g}", *shown])
    mean = ", *any such run* the mean of several seeds" if ceilings else ""
    return Table(
        title="LDS [95 % interval]; cost as a share of one training per source",
        columns=["setting", "cost", *(f"{name} dropped" for name in columns)],
        rows=rows,
        note=f"{bench.dropped.shape[1]} sources, {len(bench.retraining.queries)} queries, {len(bench.dropped)} "
        f"subsets. *This run* is one retraining{mean}.",
    )


def ceiling_of(column: str, ceilings: dict[str, float]) -> str:
    """Of a column of the table, nothing where the truth is that of one run."""
    truth, dropped = column.rsplit(", ", 1)
    return f"{ceilings[dropped]:.3f}" if truth == "any such run" else ""


def draw(points: Sequence[Point], ceilings: dict[str, float], file: Path) -> None:
    """One panel for each truth and number of dropped sources."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "dial"  # the same figures make the same file
    from matplotlib import pyplot as plt

    strong_first = (*range(0, 20, 2), *range(1, 20, 2))
    colours = [mpl.colormaps["tab20"](number) for number in strong_first]
    full = next(point for point in points if point.label == EXACT)
    panels = list(full.fidelity)
    figure, axes = plt.subplots(2, len(panels) // 2, figsize=(12, 9), sharex=True, squeeze=False)
    for axis, name in zip(axes.flat, panels, strict=True):
        shown = [point for point in points if name in point.fidelity]
        for number, lever in enumerate(dict.fromkeys(point.curve for point in shown)):
            curve = sorted((point.cost, point.fidelity[name].value) for point in shown if point.curve == lever)
            style: dict[str, Any] = {"color": colours[number], "marker": "os^vDPX*"[number % 8], "markersize": 5}
            axis.plot(*zip(*curve, strict=True), **style, label=lever)
        truth, dropped = name.rsplit(", ", 1)
        best = ceilings[dropped] if truth == "any such run" else full.fidelity[name].value
        axis.axhspan(best - NEAR, best, color="0.9", label=f"within {NEAR} of full simulation, or ceiling")
        axis.axvline(CHEAP, color="0.6", linestyle=":")
        axis.set(title=f"truth: {truth}; {dropped} sources dropped", xscale="log", ylabel="LDS")
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("cost; 1 is one training per source")
    handles = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="lower center", ncols=3, fontsize="small")
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main(
    work_folder: Annotated[Path, typer.Option("--work", help="folder of everything that is computed")],
    model: Annotated[Literal["small-gpt", "smollm2", "passages"], typer.Option(help="which protocol")] = "small-gpt",
    quick: Annotated[bool, typer.Option("--quick", help="a try of two minutes; measures nothing")] = False,
    only_show: Annotated[bool, typer.Option("--show", help="compute nothing more")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Ray tasks at once, one thread each")] = 2,
    figure: Annotated[Path | None, typer.Option(help="SVG or PNG file to draw")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the table, as a report")] = None,
) -> None:
    """Simulate and retrain, and print and draw fidelity against cost.

    Example: python -m scripts.dial --work runs/dial --figure docs/images/dial.svg
    """
    work_folder.mkdir(parents=True, exist_ok=True)
    bench = BENCHES[model](work_folder, quick)
    if not only_show:
        computed(bench, all_tasks(bench), workers)
    outcome = Outcome(bench)
    points, ceilings = list(outcome.points()), outcome.ceilings()
    report = Report.of({"lds": table_of(bench, points, ceilings)}, seed=RUNS[0])
    report.show(console)
    if figure is not None:
        draw(points, ceilings, figure)
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.dial")
