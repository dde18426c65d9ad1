"""A finished run, opened to be judged: its store, its documents, and what it takes to train its model again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_attr.config import ProtocolName, RunConfig, absolute_url
from dist_attr.corpus import end_of_text_id, load_documents, pack
from dist_attr.errors import ConfigError, CorpusError
from dist_attr.evaluation.ground_truth import Retraining
from dist_attr.readout import Attributor
from dist_attr.store import InfluenceStore, Place, check_writable, open_store


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What is judged, and with what.

    Attributes:
        store: of the run.
        attributor: of all its sources.
        retraining: the run's training, with no queries yet.
        texts: of its documents.
        weights: (corpus sources,) what each source weighed in the run.
        rows: for each of the attributor's sources its place among the corpus's.
    """

    store: InfluenceStore
    attributor: Attributor
    retraining: Retraining
    texts: list[str]
    weights: NDArray[np.float64]
    rows: NDArray[np.int64]


def open_run(config: RunConfig, protocol: ProtocolName, store: str | None = None) -> FinishedRun:
    """Open a finished run.

    Args:
        config: the run, as it was given to `simulate`, or its run.yaml.
        protocol: what it is opened for.
        store: another store of the same run than the one in its output, as a copy of it is.

    Raises:
        ConfigError: the run is not finished, made no store, has no training to repeat, or is not the store's.
        CorpusError: the documents are not those of the store.
        StoreError: the store is missing, unfinished, damaged, or cannot be written to.
    """
    _check_method(config, protocol)
    if store is None:
        output = absolute_url(config.output)
        if not Place(f"{output}/run.yaml").exists():
            raise ConfigError(
                f"there is no finished run at {output}; start dist-attr simulate with the same file, or name the store "
                "(--store) if the run was moved"
            )
        store = f"{output}/influence.zarr"
    opened = open_store(store)
    check_writable(opened)
    manifest = opened.manifest
    _check_method(manifest.run, protocol)
    _check_same(config, manifest.run, opened.url)
    documents = load_documents(config.corpus)
    attributor = Attributor(opened)
    corpus = pack(documents, attributor.engine.tokenizer, config.training.sequence_length)
    if corpus.fingerprint != manifest.corpus:
        raise CorpusError(
            f"{config.corpus.path or config.corpus.example} does not hold the documents that {opened.url} was made "
            "from; restore them, or evaluate the run that was trained on these"
        )
    model = config.model
    if model.path is not None:
        model = model.model_copy(update={"path": absolute_url(model.path)})
    tokenizer = attributor.engine.tokenizer
    retraining = Retraining(model, config.training, corpus, len(tokenizer), end_of_text_id(tokenizer), [])
    names = {source.name: row for row, source in enumerate(corpus.sources)}
    return FinishedRun(
        store=opened,
        attributor=attributor,
        retraining=retraining,
        texts=[document.text for document in documents],
        weights=np.array([config.training.source_weights.get(name, 1.0) for name in names]),
        rows=np.array([names[name] for name in attributor.sources]),
    )


def _check_method(config: RunConfig, protocol: ProtocolName) -> None:
    if config.simulation.method == "none":
        raise ConfigError("simulation.method: none only trains: the run has no store, and no scores to evaluate")
    if config.simulation.method == "checkpoint" and protocol != "tail-patch":
        raise ConfigError(
            "simulation.method: checkpoint knows nothing of how its model was trained, so that there is no training to "
            f"repeat for {protocol}. Ask for the protocol tail-patch, which needs the finished model alone, or train "
            "the model with the method trajectory or tangent, and evaluate that run"
        )


def _check_same(config: RunConfig, made: RunConfig, url: str) -> None:
    """Raises ConfigError, naming what differs, unless a store's run was trained as the configuration says."""
    asked, there = (
        dict(_flat(run.model_dump(mode="json", include={"model", "training", "tokenizer"}))) for run in (config, made)
    )
    if different := sorted(key for key in {*asked, *there} if asked.get(key) != there.get(key)):
        raise ConfigError(
            f"{url} is the store of another run: it differs in {', '.join(different)}. Give the run.yaml that lies "
            "beside the store"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in settings.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return found
