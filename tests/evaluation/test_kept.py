"""Finished numbers on disk, and what decides them."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_attr.config import TrainingConfig
from dist_attr.corpus import PackedCorpus
from dist_attr.errors import StoreError
from dist_attr.evaluation import Kept, Retraining
from dist_attr.evaluation.kept import digest
from dist_attr.readout import EncodedQuery
from dist_attr.store import Place
from tests.evaluation.conftest import GPT2
from tests.runs import LENGTH, VOCABULARY

VALUES = np.array([-1.5, 0.25])


@pytest.mark.parametrize("remote", [False, True])
def test_what_was_put_is_found_again(remote: bool, tmp_path: Path) -> None:
    place = Place(f"memory://{uuid.uuid4()}/kept" if remote else str(tmp_path / "a" / "kept"))
    kept = Kept(place)
    assert kept.get("one") is None
    kept.put("one", VALUES)
    found = Kept(place).get("one")
    assert found is not None and np.array_equal(found, VALUES)
    assert kept.get("two") is None


def test_a_file_that_was_cut_off_counts_as_missing(tmp_path: Path) -> None:
    kept = Kept(Place(str(tmp_path)))
    kept.put("one", VALUES)
    (file,) = tmp_path.iterdir()  # and nothing half-written beside it
    data = file.read_bytes()
    for size in (0, 5, 100, len(data) - 1):
        file.write_bytes(data[:size])
        assert kept.get("one") is None


def test_a_place_that_cannot_be_written_to_says_so(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(StoreError, match="kept"):
        Kept(Place(str(tmp_path / "kept"))).put("one", VALUES)


def test_a_digest_tells_shapes_types_and_the_parts_apart() -> None:
    values = np.arange(6.0)
    found = [
        digest(values),
        digest(values.reshape(2, 3)),
        digest(values.view(np.int64)),
        digest("a", "b"),
        digest("ab", ""),
        digest(["a", "b"]),
    ]
    assert len(set(found)) == len(found)
    assert digest({"b": 1, "a": values.tolist()}) == digest({"a": values.tolist(), "b": 1})


@pytest.mark.parametrize(
    ("change", "decides"),
    [
        ({"training": {"learning_rate": 0.02}}, True),
        ({"training": {"steps": 8}}, True),
        ({"training": {"no_decay": ("bias",)}}, True),
        ({"training": {"zero_stage": 1}}, False),
        ({"training": {"source_weights": {"0": 2.0}}}, False),
        ({"queries": [EncodedQuery((3, 1, 4), 2)]}, True),
        ({"model": {"exclude": ("bias",)}}, True),
        ({"model": {"config": {**(GPT2.config or {}), "n_head": 1}}}, True),
        ({"corpus": {"fingerprint": "another"}}, False),
        ({"corpus": {"token_sources": None}}, True),
    ],
)
def test_a_retraining_is_known_by_all_that_decides_it(
    change: dict[str, Any], decides: bool, corpus: PackedCorpus, queries: list[EncodedQuery]
) -> None:
    training = TrainingConfig(steps=7, batch_size=4, sequence_length=LENGTH, learning_rate=0.01)
    first = Retraining(GPT2, training, corpus, VOCABULARY, 0, queries)
    (name, value), *_ = change.items()
    if name == "corpus":
        changed = {"token_sources": (corpus.token_sources + 1) % 4} if "token_sources" in value else value
        other = replace(first, corpus=replace(corpus, **changed))
    elif name == "queries":
        other = replace(first, queries=value)
    else:
        other = replace(first, **{name: getattr(first, name).model_copy(update=value)})
    assert (first.fingerprint != other.fingerprint) == decides
    assert replace(first).fingerprint == first.fingerprint
