"""The methods of scripts/field.py: what has to be computed for each, its grid, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dist_attr.evaluation import predicted_change
from dist_attr.evaluation.baselines import BM25, GRIDS, Baseline, Ekfac, InfluenceCG, Similarity, TracIn, Trak
from dist_attr.evaluation.baselines.tasks import pieces_of
from scripts.dial import RUNS
from scripts.dial_tasks import Bench, Simulation, Task
from scripts.field_others import Library, QueryCost
from scripts.field_ours import Descent, Grouped, Halves
from scripts.field_table import Setting

RUN = RUNS[0]
LINEAR, COUNTERFACTUAL = "linear", "counterfactual"
HALF_WEIGHT = "trajectory weight=0.5 epsilon=0.5"
CURVATURES = (0.9, 0.7, 0.5, 0.3, 0.1)  # that count in a damped trajectory
MEANS = {number: f"trajectory, counterfactual, mean of {number} runs" for number in (2, 3)}
TOGETHER = RUNS[: max(MEANS)]  # the runs that IF-CG and EK-FAC are averaged over as well
DAMPED_MEAN, CG_MEAN, EKFAC_MEAN = (
    f"{name}, mean of {len(TOGETHER)} runs" for name in ("damped trajectory, counterfactual", "IF-CG", "EK-FAC")
)
MEAN_CURVATURES = (0.5, 0.3)  # of which means are taken: those that one run does best with
OTHER_RUNS = (*MEANS.values(), DAMPED_MEAN, CG_MEAN, EKFAC_MEAN)  # they say nothing of this run in particular
DIMENSIONS = (8, 16, 32, 256, 1024)  # of TRAK's projection; dattri reads all gradients anew for each
DAMPINGS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-3, 1e-1)  # of EK-FAC
DIMENSION = 64  # of the projection that is timed; others are as many times the work
FEW_DAMPINGS = DAMPINGS[1::2]  # where each takes minutes
FITTED = 64  # pieces whose Hessian IF-CG inverts; its own 1,000 would take an hour of a core


def descent(bench: Bench, quick: bool) -> Descent:
    """The checkpoint simulator with its grid, smaller where a sequence costs more."""
    if quick:
        return Descent(RUN, steps=(1, 2), dampings=(1.0,), batch_size=8)
    if is_large(bench):
        return Descent(RUN, steps=(1, 2, 4), dampings=(1.0,), batch_size=4)
    return Descent(RUN, steps=(3, 6, 12, 24), dampings=(1.0, 10.0), batch_size=64)


def is_large(bench: Bench) -> bool:
    """Whether a model is fine-tuned, of which a forward pass costs a thousand times what the small GPT's does."""
    return bench.retraining.model.path is not None


def curvatures(bench: Bench, quick: bool) -> tuple[float, ...]:
    """What is tried for a damped trajectory; nothing of a large model, where each takes minutes."""
    return () if is_large(bench) else CURVATURES[: 1 if quick else None]


def libraries(bench: Bench, quick: bool) -> list[Library]:
    """Every other method with each setting of its grid."""
    pieces, runs, large = len(pieces_of(bench.retraining)[1]), RUNS[:4], is_large(bench)

    def grid(method: str, settings: Sequence[Baseline], seeds: tuple[int, ...] = (RUN,)) -> list[Library]:
        return [Library(method, baseline, seeds) for baseline in settings[: 1 if quick else None]]

    # TRAK's kernel needs as many pieces as dimensions; where there are many, the smallest are of no use.
    trak = [Trak(dimension) for dimension in DIMENSIONS if dimension <= pieces][-3:]
    conjugate = [InfluenceCG(damping, fitted=FITTED) for damping in (0.1, 0.01, 1.0, 10.0)]
    return [
        *grid("gradient dot product", [TracIn()]),
        *grid("gradient cosine", [TracIn(cosine=True)]),
        *(Library("TracIn", TracIn(), (RUN,), points) for points in ((2,) if quick else (2, 4))),
        *grid("TRAK-1", trak),
        *grid("TRAK-4", trak, runs),
        # Of a large model it takes an hour of a core for each damping.
        *([] if large else [*grid("IF-CG", conjugate), *grid(CG_MEAN, conjugate[::2], TOGETHER)]),
        *grid("EK-FAC", [Ekfac(damping) for damping in (FEW_DAMPINGS if large else DAMPINGS)]),
        *grid(EKFAC_MEAN, [Ekfac(damping) for damping in (FEW_DAMPINGS if large else DAMPINGS[1:4])], TOGETHER),
        *grid("representation similarity", GRIDS["representation similarity"]),
        *grid("BM25", GRIDS["BM25"]),
    ]


def tasks(bench: Bench, quick: bool) -> list[Task]:
    """All that the tables need besides the truths."""
    tried = curvatures(bench, quick)
    return [
        QueryCost(DIMENSION),
        Simulation(RUN, "trajectory"),
        Simulation(RUN, "tangent"),
        *libraries(bench, quick),
        Halves(RUN),
        Grouped(RUN),
        descent(bench, quick),
        *(Simulation(seed, "trajectory") for seed in TOGETHER[1:]),
        *(damped(curvature) for curvature in tried),
        *(damped(curvature, seed) for curvature in MEAN_CURVATURES if len(tried) > 1 for seed in TOGETHER[1:]),
        Simulation(RUN, HALF_WEIGHT),
    ]


def damped(curvature: float, seed: int = RUN) -> Simulation:
    """A trajectory whose curvature counts less than it is."""
    return Simulation(seed, f"trajectory curvature_weight={curvature:g}")


def found(bench: Bench, quick: bool) -> dict[str, dict[str, Setting]]:
    """By method and setting what is finished; nothing as long as the costs of a query are not."""
    timed = bench.found(QueryCost(DIMENSION))
    if timed is None:
        return {}
    methods: dict[str, dict[str, Setting]] = {}
    for name, setting, one in [*ours(bench, quick, timed), *others(bench, quick, timed)]:
        methods.setdefault(name, {})[setting] = one
    return methods


def ours(bench: Bench, quick: bool, timed: Any) -> list[tuple[str, str, Setting]]:
    """dist_attr: name, setting, and what it predicts and costs."""
    sources, rows = len(bench.retraining.corpus.sources), list[tuple[str, str, Setting]]()
    kept = int8_bytes(int(timed["parameters"]))
    query = {name: float(timed[name] / timed["forward"]) for name in (LINEAR, COUNTERFACTUAL)}

    def simulated(name: str, result: Any, trainings: float, setting: str = "") -> None:
        if result is not None:
            for readout in (LINEAR, COUNTERFACTUAL):
                if readout in result.dtype.names:
                    predicted = predicted_change(result[readout], bench.dropped)
                    rows.append((f"{name}, {readout}", setting, Setting(predicted, query[readout], kept, trainings)))

    def trainings_of(result: Any) -> float:
        if result is None:
            return 0.0
        if "cost" in result.dtype.names:
            return float(result["cost"]) * sources
        return float(result["seconds"]) / float(result["plain_seconds"])

    def averaged(name: str, runs: list[Any], setting: str = "") -> None:
        if all(run is not None for run in runs):
            mean, number = np.mean([run[COUNTERFACTUAL] for run in runs], axis=0), len(runs)
            trainings = sum(trainings_of(run) for run in runs) + number - 1
            costs = number * query[COUNTERFACTUAL], number * kept, trainings
            rows.append((name, setting, Setting(predicted_change(mean, bench.dropped), *costs)))

    runs = [bench.found(Simulation(seed, "trajectory")) for seed in TOGETHER]
    tangent, halves = bench.found(Simulation(RUN, "tangent")), bench.found(Halves(RUN))
    simulated("trajectory", runs[0], trainings_of(runs[0]))
    if (grouped := bench.found(Grouped(RUN))) is not None:
        one_source = query[COUNTERFACTUAL] / sources
        predicted = np.asarray(grouped["grouped"].T)
        rows.append(("trajectory, group", "", Setting(predicted, one_source, kept, trainings_of(grouped))))
    for curvature in CURVATURES:
        one = bench.found(damped(curvature))
        simulated("damped trajectory", one, trainings_of(one), f"curvature × {curvature:g}")
    half_weight = bench.found(Simulation(RUN, HALF_WEIGHT))
    simulated("trajectory at weight ½", half_weight, trainings_of(half_weight))
    simulated("trajectories in two halves", halves, trainings_of(halves))
    simulated("tangent", tangent, trainings_of(tangent))
    if (result := bench.found(task := descent(bench, quick))) is not None:
        for setting, scores, seconds in zip(task.settings, result[LINEAR], result["seconds"], strict=True):
            predicted, trainings = predicted_change(scores, bench.dropped), float(seconds / result["plain_seconds"])
            rows.append(("checkpoint, linear", setting, Setting(predicted, query[LINEAR], kept, trainings)))
    for number, name in MEANS.items():
        averaged(name, runs[:number])
    for curvature in MEAN_CURVATURES:
        averaged(DAMPED_MEAN, [bench.found(damped(curvature, seed)) for seed in TOGETHER], f"curvature × {curvature:g}")
    return rows


def others(bench: Bench, quick: bool, timed: Any) -> list[tuple[str, str, Setting]]:
    """The other methods: name, setting, and what it predicts and costs."""
    rows, forward, queries = [], float(timed["forward"]), len(bench.retraining.queries)
    for library in libraries(bench, quick):
        if (result := bench.found(library)) is None:
            continue
        models, seconds = len(library.seeds) * library.points, float(result["seconds"])
        own, kept = cost_of(library.baseline, models, timed)
        # What a library does for a query at the time of the query, and nothing before it.
        of_query = seconds / queries if own is None else own
        before = max(0.0, seconds - queries * of_query) / float(result["plain_seconds"])
        predicted = predicted_change(result["scores"], bench.dropped)
        one = Setting(predicted, of_query / forward, kept, before + len(library.seeds) - 1)
        setting = f"{library.points} checkpoints" if library.points > 1 else in_words(library.baseline)
        rows.append((library.method, setting, one))
    return rows


def cost_of(baseline: Baseline, models: int, timed: Any) -> tuple[float | None, float]:
    """Seconds of a query for all sources, None where the library does everything then; and bytes kept of a source."""
    gradient = float(timed["backward"] + timed["product"])
    of_gradient = 4.0 * float(timed["parameters"])
    if isinstance(baseline, Trak):
        projection = float(timed["projection"]) * baseline.dimension / DIMENSION
        return models * (float(timed["backward"]) + projection), models * 4.0 * baseline.dimension
    if isinstance(baseline, InfluenceCG):
        return None, models * of_gradient
    if isinstance(baseline, (TracIn, Ekfac)):
        return models * gradient, models * of_gradient
    if isinstance(baseline, Similarity):
        return float(timed["forward"]), 4.0 * float(timed["width"])
    assert isinstance(baseline, BM25)
    return float(timed["lookup"]), float(timed["index_bytes"])


def in_words(baseline: Baseline) -> str:
    """What is tried with it."""
    match baseline:
        case Trak():
            return f"dimension {baseline.dimension}"
        case InfluenceCG() | Ekfac():
            return f"damping {baseline.damping:g}"
        case Similarity():
            return baseline.metric
        case BM25():
            return baseline.pooled
    return ""


def int8_bytes(parameters: int) -> float:
    """Of a tangent as a store keeps it, before compression."""
    from dist_attr.config import StoreConfig
    from dist_attr.store import Codec

    encoded = Codec.of(StoreConfig(codec="int8")).encode(np.zeros(parameters, np.float32))
    return float(encoded.values.nbytes + encoded.scales.nbytes)
