"""Judging the scores of a finished run, by retraining without sources or by one more step on each.

Design decisions:
- The truth of this run contains the training with all sources, repeated: its outputs are what true changes are counted
  from, and unless they are those of the stored model, what is retrained is another run and the evaluation stops.
- Both readouts are judged by the same retrained models, since these are what costs.
- What removing a source takes away is its weight times its score.
- Everything is drawn from one seed, and what is retrained is kept by its content: the same command goes on, another one
  reuses whatever is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dist_attr.config import EvaluationConfig, ReadoutName, RunConfig
from dist_attr.config.evaluation import SUBSETS
from dist_attr.errors import ConfigError, QueryError, SimulationError
from dist_attr.evaluation.fidelity import (
    Floats,
    calibration_slope,
    drop_subsets,
    lds,
    lds_by_number,
    noise_ceiling,
    pearson,
    predicted_change,
)
from dist_attr.evaluation.finished import FinishedRun, open_run
from dist_attr.evaluation.ground_truth import retrained_outputs
from dist_attr.evaluation.kept import Kept
from dist_attr.evaluation.result import Compared, PatchResult, RetrainingResult
from dist_attr.evaluation.retraining import completion_logprobs
from dist_attr.evaluation.tail_patch import mean_of_queries, patched_changes, patching_of, ranked
from dist_attr.evaluation.tasks import Workers
from dist_attr.readout import Query, sample_queries
from dist_attr.store import record_fidelity

READOUTS: tuple[ReadoutName, ...] = ("linear", "counterfactual")
FOLDER = "evaluation"  # beside the store
NEAR = 0.1  # of what removing sources is predicted to change: as far off may a repeated run be
Progress = Callable[[str, int, int], None]


def evaluate(
    config: RunConfig,
    asked: EvaluationConfig,
    *,
    queries: Sequence[Query] | None = None,
    store: str | None = None,
    workers: int | None = None,
    progress: Progress = lambda *_: None,
) -> RetrainingResult | PatchResult:
    """Judge the scores of a finished run; with retraining, write what was measured into the manifest of its store.

    Args:
        config: the run.
        asked: by what protocol, against which truth.
        queries: to judge with; by default pieces of the documents, as `calibrate` draws them.
        store: another store of this run than the one in its output.
        workers: trainings side by side; by default as many as the run has workers.
        progress: called with what is done, how much of it and of how much.

    Raises:
        DistAttrError: something does not fit, see `open_run`, or a training went wrong. What is finished is kept.
    """
    run = open_run(config, asked.protocol, store)
    if queries is None:
        queries = sample_queries(run.texts, asked.count, run.attributor.fits, asked.seed)
    if any(query.baseline is not None for query in queries):
        raise QueryError("an evaluation query has no baseline; give the baseline as a query of its own")
    if len(queries) < 2:
        raise QueryError(f"an evaluation needs 2 queries or more, there are {len(queries)}")
    encoded, _ = run.attributor.engine.encode_all(queries)
    run = replace(run, retraining=replace(run.retraining, queries=encoded))
    where = Workers(workers or config.cluster.workers, config.cluster.max_failures)
    kept = Kept(run.store.place.beside(f"{FOLDER}/kept"))
    # Before anything is read out or retrained: what is asked for may not exist.
    dropped = None if asked.protocol == "tail-patch" else subsets_of(asked, _droppable(run))
    scores = {}
    for number, readout in enumerate(READOUTS):
        progress("reading out", number, len(READOUTS))
        scores[readout] = run.attributor.attribute(queries, readout).scores.astype(np.float64)
    if dropped is None:
        return _patch(run, asked, queries, scores, where, kept, progress)
    return _retrain(run, asked, queries, scores, dropped, where, kept, progress)


def subsets_of(asked: EvaluationConfig, droppable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which sources each retrained model goes without, (subsets, sources).

    Args:
        asked: how many subsets, and of how many sources.
        droppable: (sources,) those that may be left out.

    Raises:
        ConfigError: there are not that many.
    """
    among, size = np.flatnonzero(droppable), asked.dropped_of(int(droppable.sum()))
    if size >= len(among):
        raise ConfigError(f"--drop {asked.drop:g} leaves none of the {len(among)} sources to train on; drop fewer")
    most = math.comb(len(among), size)
    number = asked.subsets or (min(most, SUBSETS) if asked.protocol == "lds" else most)
    if number > most:
        raise ConfigError(
            f"there are {most} different ways to drop {size} of {len(among)} sources, and --subsets asks for {number}; "
            "ask for fewer"
        )
    if number < 3:
        raise ConfigError(f"a rank correlation needs 3 subsets or more, and {len(among)} sources have {most}")
    dropped = np.zeros((number, len(droppable)), np.bool_)
    dropped[:, among] = drop_subsets(len(among), number, size, asked.seed)
    return dropped


def _droppable(run: FinishedRun) -> NDArray[np.bool_]:
    """Of the attributor's sources: what had no weight in the run cannot be removed from it."""
    found: NDArray[np.bool_] = run.weights[run.rows] > 0
    return found


def _retrain(
    run: FinishedRun,
    asked: EvaluationConfig,
    queries: Sequence[Query],
    scores: dict[ReadoutName, Floats],
    dropped: NDArray[np.bool_],
    workers: Workers,
    kept: Kept,
    progress: Progress,
) -> RetrainingResult:
    seed, this_run = run.retraining.training.seed, asked.truth == "this run"
    seeds = [seed] if this_run else [seed + 1 + number for number in range(asked.runs)]
    weights = np.tile(run.weights, (len(dropped) + 1, 1))  # the first row with all sources
    weights[1:, run.rows] *= ~dropped
    own = run.weights[run.rows]
    predicted = {readout: predicted_change(values * own, dropped) for readout, values in scores.items()}
    logprobs = completion_logprobs(run.attributor.engine.module, run.retraining.queries)
    expected, finished, total = _size(predicted["linear"]), [0], len(seeds) * len(weights)

    def on_done(number: int, outputs: Floats) -> None:
        if not np.isfinite(outputs).all():
            raise SimulationError(
                "a model that was retrained without some sources gives probabilities that are no numbers: its training "
                "diverges, and there is nothing to compare scores with. Train with a smaller training.learning_rate"
            )
        if this_run and number == 0 and (off := _size(outputs - logprobs)) > NEAR * expected:
            raise SimulationError(
                f"trained again with all its sources, the model's log-probabilities are {off:.2g} nats off those of "
                f"the finished one (root mean square), where removing sources is predicted to change {expected:.2g} "
                "nats: too far for the same run. Retraining computes in float32 with the software that "
                "is installed now; where the run did not, ask for the truth of any such run"
            )
        finished[0] += 1
        progress("retraining", finished[0], total)

    progress("retraining", 0, total)
    outputs = retrained_outputs(run.retraining, weights, seeds=seeds, workers=workers, kept=kept, on_done=on_done)
    without = outputs[:, 1:] - outputs[:, :1]
    true: Floats = without.mean(axis=0)
    readouts = {
        readout: Compared(
            change,
            lds(change, true, seed=asked.seed),
            pearson(change, true, seed=asked.seed),
            calibration_slope(change, true, seed=asked.seed),
            lds_by_number(change, true, seed=asked.seed),
        )
        for readout, change in predicted.items()
    }
    result = RetrainingResult(
        asked=asked,
        store=run.store,
        queries=queries,
        sources=run.attributor.sources,
        logprobs=logprobs,
        dropped=dropped,
        true=true,
        readouts=readouts,
        models=outputs[:, 1:].shape[0] * len(dropped),
        ceiling=None if this_run else noise_ceiling(without),
        repeated=_size(outputs[0, 0] - logprobs) if this_run else None,
    )
    measured = result.measured()
    new = {(found.truth, found.readout, found.dropped) for found in measured}
    before = run.store.manifest.fidelity
    others = [found for found in before if (found.truth, found.readout, found.dropped) not in new]
    return replace(result, store=record_fidelity(run.store, [*others, *measured]))


def _patch(
    run: FinishedRun,
    asked: EvaluationConfig,
    queries: Sequence[Query],
    scores: dict[ReadoutName, Floats],
    workers: Workers,
    kept: Kept,
    progress: Progress,
) -> PatchResult:
    sources, names = run.attributor.sources, run.store.manifest.space.names
    if 2 * asked.top > len(sources):
        raise ConfigError(
            f"--top {asked.top} takes {2 * asked.top} of {len(sources)} sources, from both ends of a ranking; "
            "ask for fewer"
        )
    retraining, finished = run.retraining, [0]
    patching = patching_of(
        run.attributor.engine.module, names, retraining.training, retraining.corpus, retraining.queries
    )

    def on_done(*_: object) -> None:
        finished[0] += 1
        progress("one step on each source", finished[0], len(sources))

    progress("one step on each source", 0, len(sources))
    change = patched_changes(patching, run.rows.tolist(), workers=workers, kept=kept, on_done=on_done)
    return PatchResult(
        asked=asked,
        store=run.store,
        queries=queries,
        sources=sources,
        logprobs=completion_logprobs(run.attributor.engine.module, retraining.queries),
        change=change,
        anyone=mean_of_queries(change.mean(axis=0), asked.seed),
        readouts=ranked(change, scores, asked.top, asked.seed),
    )


def _size(values: Floats) -> float:
    """Root mean square."""
    return float(np.sqrt((values**2).mean()))
