"""The parts of an audit, read out on Ray Data: a pool of actors, each with the store's tangents and its model.

Design decisions:
- A part is one block and one task: Ray Data hands the next to whichever actor is free, and holds back while all are
  busy.
- An actor writes its part itself and hands back a few numbers, so that no scores pass through Ray.
- Ray starts an actor again whose process died, and its task with it. A task is started again a few times only: one that
  dies of its own memory would die for ever.
- With a node more is lost, and Ray uses these few times up while it still looks for another place. So a pool that ends
  this way is followed by another one for the parts that are missing, as long as there are fewer of them each time.
- What is wrong with a store or a query is handed back as a result, since an exception loses its type on the way.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from dist_attr import errors
from dist_attr.auditing.game import Game
from dist_attr.auditing.highlights import of_part
from dist_attr.auditing.parts import Part, finished, parquet
from dist_attr.auditing.probing import PartProber
from dist_attr.auditing.queries import AuditQuery
from dist_attr.cluster import ENVIRONMENT, connect, gpus_per_actor
from dist_attr.config import AuditConfig
from dist_attr.errors import DistAttrError, SimulationError
from dist_attr.readout import Attribution, Attributor
from dist_attr.store import InfluenceStore, Place, open_store

RETRIES = 3  # of a part whose actor died
BARREN = 2  # pools in a row that finish nothing: then it is given up
AHEAD = 2  # parts that an actor has, the one it reads out included
Progress = Callable[[str, int, int], None]


class PartReader:
    """A readout engine that reads out parts; everything is loaded with the first.

    Args:
        store: its URL; each node has its own credentials.
        out: the folder of the audit.
        config: what is read out.
        model: another place of the store's model.
        corpus: another place of the store's documents.
    """

    def __init__(self, store: str, out: str, config: AuditConfig, model: str | None, corpus: str | None) -> None:
        self._store, self._out, self._config = store, Place(out), config
        self._model, self._corpus = model, corpus
        self._attributor: Attributor | None = None
        self._prober: PartProber | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Read out the parts of a batch and write them; what went wrong, if anything did."""
        done = []
        for row in batch.to_pylist():
            kind = error = ""
            try:
                self._write(Part(row["name"], tuple(map(AuditQuery.model_validate_json, row["queries"]))))
            except DistAttrError as problem:
                kind, error = type(problem).__name__, str(problem)
            done.append({"queries": len(row["queries"]), "kind": kind, "error": error})
        return pa.Table.from_pylist(done)

    def _write(self, part: Part) -> None:
        if self._attributor is None:
            store = open_store(self._store)
            weights = store.manifest.run.training.source_weights
            self._weights = np.array([weights.get(source, 1.0) for source in store.sources], np.float32)
            attributor = Attributor(store, model=self._model, rank=self._config.rank, precision=self._config.precision)
            if self._config.probe is not None:
                self._prober = PartProber(attributor.engine, store, self._config.probe, self._corpus)
            self._attributor = attributor  # last, so that no part is read out with half of what it needs
        found = self._attributor.attribute(part.queries, self._config.readout)
        columns = part_columns(part.queries, found, tokens=self._config.tokens)
        if self._config.shapley:
            columns["shapley"] = _rows(self._values(self._attributor, part.queries))
        if self._prober is not None:
            columns |= {name: _rows(rows) for name, rows in self._prober.columns(part.queries).items()}
        self._out.write(part.name, parquet(pa.table(columns)))

    def _values(self, attributor: Attributor, queries: Sequence[AuditQuery]) -> np.ndarray[Any, Any]:
        """Shapley values (queries, sources) of what queries lose when sets of sources are taken away, nats."""
        game = Game.of(len(attributor.sources), self._config.shapley, self._config.seed)
        away = attributor.rows.mixed(torch.from_numpy(game.removed * self._weights))
        engine = attributor.engine
        encoded, against = engine.encode_all(queries)
        read = engine.read([*encoded, *(other for other in against if other)], away, "counterfactual")
        others = iter(read[len(encoded) :])
        costs = [
            own.scores.sum(1, dtype=np.float64) - (next(others).scores.sum(1, dtype=np.float64) if other else 0.0)
            for own, other in zip(read[: len(encoded)], against, strict=True)
        ]
        return game.values(np.stack(costs)).astype(np.float32)


def part_columns(queries: Sequence[AuditQuery], found: Attribution, *, tokens: bool) -> dict[str, pa.Array]:
    """What is written of some queries; scores stand in the order of the sources table."""
    columns = {
        "id": pa.array([query.name for query in queries], pa.string()),
        "weight": pa.array([query.weight for query in queries], pa.float64()),
        "prompt": pa.array([query.prompt for query in queries], pa.string()),
        "completion": pa.array([query.completion for query in queries], pa.string()),
        "baseline": pa.array([query.baseline for query in queries], pa.string()),
        "completion_tokens": pa.array([len(own) for own in found.tokens], pa.int32()),
        "logprob": pa.array([own.sum(dtype=np.float64) for own in found.token_logprobs], pa.float64()),
        "baseline_logprob": pa.array(found.baseline_logprobs, pa.float64()),
        "scores": _rows(found.scores),
        "tokens": pa.array(found.tokens, pa.list_(pa.string())),
        "token_logprobs": _rows(found.token_logprobs),
        "highlights": of_part(found.scores, found.token_scores),
    }
    if found.errors is not None:
        columns["errors"] = _rows(found.errors)
    if tokens:
        columns["token_scores"] = pa.array(
            [list(of_query) for of_query in found.token_scores], pa.list_(pa.list_(pa.float32()))
        )
    return columns


def _rows(values: Any) -> pa.Array:
    return pa.array(list(values), pa.list_(pa.float32()))


def read_out(
    store: InfluenceStore,
    out: Place,
    parts: Sequence[Part],
    config: AuditConfig,
    *,
    workers: int,
    model: str | None = None,
    corpus: str | None = None,
    progress: Progress = lambda *_: None,
) -> None:
    """Read out the parts that are missing, on a pool of actors, and write each to its file in the folder of the audit.

    Args:
        store: reached by its URL from every node.
        out: the folder, likewise.
        parts: all of the audit.
        config: what is read out.
        workers: actors; each holds the model and the tangents, on a GPU if there is one for each.
        model: another place of the store's model.
        corpus: another place of the store's documents, which every node reaches.
        progress: called with what is done, how many queries of it and of how many.

    Raises:
        DistAttrError: as an actor raises it, or actors died too often. What is finished stays.
    """
    missing = _missing(out, parts)
    if not missing:
        return
    connect()
    _quiet()
    arguments = (store.url, out.url, config, model, corpus)
    actors = min(workers, len(missing))
    gpus = gpus_per_actor(actors)
    total, barren = sum(len(part.queries) for part in parts), 0
    while missing:
        done = total - sum(len(part.queries) for part in missing)
        progress("reading out", done, total)
        try:
            for row in _pool(missing, arguments, actors, gpus).iter_rows():
                _check(row)
                done += row["queries"]
                progress("reading out", done, total)
            return
        except RayError as error:
            left = _missing(out, parts)
            barren = 0 if len(left) < len(missing) else barren + 1
            if barren == BARREN:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise SimulationError(
                    f"workers of the audit died again and again over the same queries: {first}. What is finished "
                    "stays: give the nodes more memory, or room on their disks, or fewer --workers, and start the same "
                    "command again"
                ) from error
            missing = left


def _missing(out: Place, parts: Sequence[Part]) -> list[Part]:
    there = {part.name for part in finished(out, parts)}
    return [part for part in parts if part.name not in there]


def _pool(parts: Sequence[Part], arguments: tuple[Any, ...], actors: int, gpus: int) -> ray.data.Dataset:
    """What comes of parts, each read out and written by one of some actors when it is asked for.

    The arguments are those of `PartReader`.
    """
    blocks = [
        pa.table({"name": [part.name], "queries": [[query.model_dump_json() for query in part.queries]]})
        for part in parts
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there is no other way to say how often
        return ray.data.from_arrow(blocks).map_batches(
            PartReader,
            batch_size=None,
            batch_format="pyarrow",
            fn_constructor_args=arguments,
            compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=AHEAD),
            num_cpus=1,
            num_gpus=gpus,
            runtime_env={"env_vars": {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}},
            max_task_retries=RETRIES,
        )


def _check(row: Mapping[str, Any]) -> None:
    if row["kind"]:
        kind: type[DistAttrError] = getattr(errors, row["kind"])
        raise kind(row["error"])


def _quiet() -> None:
    """Ray Data's own bars and reports would stand between the lines of ours."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
