"""Everything a run needs before any actor starts: documents, tokenizer, batches, the sources table, the manifest."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_attr.config import RunConfig, absolute_url
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
from dist_attr.simulation.actor import ModelReport, Task
from dist_attr.simulation.checkpoint import identity
from dist_attr.simulation.deepspeed_settings import deepspeed_settings
from dist_attr.simulation.recipe import source_weights
from dist_attr.simulation.workload import trained_tokens
from dist_attr.store import Manifest, SourceRecord

SOFTWARE = ("dist_attr", "torch", "deepspeed", "ray", "transformers", "zarr", "numpy")


@dataclass(frozen=True)
class PreparedRun:
    """A run that has been checked as far as it can be without training."""

    config: RunConfig
    tokenizer: Tokenizer
    task: Task

    def identity(self) -> dict[str, Any]:
        """What the run computes, for a checkpoint to say which run it belongs to."""
        return identity(self.config, self.task.corpus.fingerprint, tokenizer_fingerprint(self.tokenizer))

    def with_sources_per_pass(self, number: int) -> PreparedRun:
        """The same run with this setting resolved, so that it can be repeated bit for bit."""
        simulation = self.config.simulation.model_copy(update={"sources_per_pass": number})
        return replace(self, config=self.config.model_copy(update={"simulation": simulation}))

    def manifest(self, model: ModelReport) -> Manifest:
        """The manifest of the store, as long as it is not complete."""
        return Manifest(
            identity=str(uuid.uuid4()),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            complete=False,
            model=None,
            space=model.space,
            sources=source_records(self.task.corpus, self.task.schedule),
            corpus=self.task.corpus.fingerprint,
            run=self.config,
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
    schedule = batch_schedule(len(corpus.tokens), training.batch_size, training.steps, training.seed)
    if config.model.path is not None:
        model = config.model.model_copy(update={"path": absolute_url(config.model.path)})
        run = config.model_copy(update={"model": model})
    else:
        run = config
    return PreparedRun(config, tokenizer, Task(run, corpus, schedule, len(tokenizer), end_of_text_id(tokenizer)))


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
