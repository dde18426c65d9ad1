"""Everything a run needs before any actor starts: documents, tokenizer, batches, the sources table, the manifest."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_attr.config import RunConfig, SimulationConfig, absolute_url
from dist_attr.corpus import (
    PackedCorpus,
    Tokenizer,
    batch_schedule,
    end_of_text_id,
    load_documents,
    load_tokenizer,
    pack,
    tokenizer_fingerprint,
)
from dist_attr.simulation.actor import Task
from dist_attr.simulation.checkpoint import identity
from dist_attr.simulation.deepspeed_settings import deepspeed_settings
from dist_attr.simulation.descent import descent_schedule
from dist_attr.simulation.recipe import optimizer_rule, source_weights
from dist_attr.simulation.reports import ModelReport
from dist_attr.simulation.workload import Bools, trained_tokens
from dist_attr.store import Descent, Manifest, SourceRecord

SOFTWARE = ("dist_attr", "torch", "deepspeed", "ray", "transformers", "zarr", "numpy")
FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class PreparedRun:
    """A run that has been checked as far as it can be without training.

    Attributes:
        config: the run, in the end with everything that was chosen and measured for it.
        identity: what it computes, as it was asked for: whether a checkpoint or a store is this run's.
    """

    config: RunConfig
    tokenizer: Tokenizer
    task: Task
    identity: dict[str, Any]

    @property
    def computes(self) -> str:
        """sha256 of the identity."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    @property
    def present(self) -> Bools:
        """Whether the batch of a step holds a source, (steps, sources)."""
        return trained_tokens(self.task.corpus, self.task.schedule) > 0

    def source_bytes(self, model: ModelReport) -> int:
        """State of one replica or tangent: parameters and optimizer slots, in float32."""
        return FLOAT32 * model.space.size * (1 + len(optimizer_rule(self.config.training).slots))

    def with_simulation(self, settings: SimulationConfig) -> PreparedRun:
        """The same run with what was chosen and measured as its settings, to be repeated bit for bit."""
        return replace(self, config=self.config.model_copy(update={"simulation": settings}))

    def records(self) -> tuple[SourceRecord, ...]:
        """The sources table of the store."""
        return source_records(self.task.corpus, self.task.schedule)

    def manifest(self, model: ModelReport, descent: Descent | None) -> Manifest:
        """The manifest of the store, as long as it is not complete."""
        return Manifest(
            identity=str(uuid.uuid4()),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            complete=False,
            model=None,
            space=model.space,
            encoding=self.config.store,
            sources=len(self.task.corpus.sources),
            sources_checksum=None,
            corpus=self.task.corpus.fingerprint,
            computes=self.computes,
            run=self.config,
            descent=descent,
            versions={name: version(name) for name in SOFTWARE},
        )


def prepare(config: RunConfig) -> PreparedRun:
    """Read the corpus and lay out every batch. Raises DistAttrError for whatever does not fit."""
    deepspeed_settings(config.training, config.cluster.workers)  # refuses what it must before anything is read
    documents = load_documents(config.corpus)
    tokenizer = load_tokenizer(config.tokenizer, (document.text for document in documents))
    training = config.training
    corpus = pack(documents, tokenizer, training.sequence_length)
    source_weights([source.name for source in corpus.sources], training.source_weights)
    if config.simulation.descent is not None:
        schedule = descent_schedule(len(corpus.tokens), config.simulation.descent, training.seed)
    else:
        schedule = batch_schedule(len(corpus.tokens), training.batch_size, training.steps, training.seed)
    if config.model.path is not None:
        model = config.model.model_copy(update={"path": absolute_url(config.model.path)})
        run = config.model_copy(update={"model": model})
    else:
        run = config
    task = Task(run, corpus, schedule, len(tokenizer), end_of_text_id(tokenizer))
    return PreparedRun(config, tokenizer, task, identity(config, corpus.fingerprint, tokenizer_fingerprint(tokenizer)))


def source_records(corpus: PackedCorpus, schedule: NDArray[np.int64]) -> tuple[SourceRecord, ...]:
    """The sources table: what the corpus holds of each source, and what the run saw of it."""
    seen = trained_tokens(corpus, schedule)
    records = []
    for index, source in enumerate(corpus.sources):
        steps = np.flatnonzero(seen[:, index])
        records.append(
            SourceRecord(
                name=source.name,
                documents=source.documents,
                tokens=source.tokens,
                trained_tokens=int(seen[:, index].sum()),
                first_step=int(steps[0]) if len(steps) else None,
                last_step=int(steps[-1]) if len(steps) else None,
                examples=source.examples,
            )
        )
    return tuple(records)
