"""Answers through a basis: exact with as many directions as sources, and honest with fewer."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import dist_attr as da
from dist_attr.config import CodecName
from dist_attr.errors import QueryError, StoreError
from dist_attr.readout import calibrate, sample_queries
from dist_attr.store import open_basis
from tests import stores

SOURCES = 12
WORDS = ("the", "state", "of", "union", "is", "strong", "we", "shall", "not", "fear", "what", "comes", "nor", "those")


def queries(count: int, seed: int) -> list[da.Query]:
    """Short sentences of a few words."""
    draw = random.Random(seed)
    return [
        da.Query(prompt=" ".join(draw.choices(WORDS, k=2)), completion=" " + " ".join(draw.choices(WORDS, k=2)))
        for _ in range(count)
    ]


def make_store(folder: Path, codec: CodecName = "float32") -> da.InfluenceStore:
    """Tangents that vary in few directions and a little in all others."""
    return stores.make_store(folder, [f"s{n}" for n in range(SOURCES)], context=48, codec=codec, directions=4)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> da.InfluenceStore:
    """Calibrated to all its directions."""
    store = make_store(tmp_path_factory.mktemp("basis"))
    calibrate(store, queries(80, seed=1), rank=SOURCES)
    return store


NEW = queries(60, seed=2)


@pytest.fixture(scope="module")
def exact(store: da.InfluenceStore) -> da.Attribution:
    return da.Attributor(store).attribute(NEW)


def apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("readout", ["linear", "central-difference"])
def test_as_many_directions_as_sources_are_exact(readout: str, store: da.InfluenceStore, exact: da.Attribution) -> None:
    found = da.Attributor(store, rank=SOURCES).attribute(NEW, readout)  # type: ignore[arg-type]
    assert found.sources == exact.sources
    assert apart(found.scores, exact.scores) < (1e-5 if readout == "linear" else 5e-3)
    for one, other in zip(found.token_scores, exact.token_scores, strict=True):
        assert apart(one, other) < (1e-5 if readout == "linear" else 2e-2)
    assert found.errors is not None
    assert np.linalg.norm(found.errors) < 1e-4 * np.linalg.norm(exact.scores)


def test_without_a_rank_there_is_no_error(exact: da.Attribution) -> None:
    assert exact.errors is None and exact.token_errors is None


def test_of_int8_they_are_as_good_as_the_codec(tmp_path: Path) -> None:
    store = make_store(tmp_path, "int8")
    calibrate(store, queries(40, seed=1), rank=SOURCES)
    found, exact = da.Attributor(store, rank=SOURCES).attribute(NEW), da.Attributor(store).attribute(NEW)
    assert 0 < apart(found.scores, exact.scores) < 0.02
    # The codec's error is the only one there is, and the bars know it.
    assert found.errors is not None
    assert 0.7 < np.sqrt(np.square((found.scores - exact.scores) / found.errors).mean()) < 1.4


@pytest.mark.parametrize("rank", [4, 6, 8])
def test_the_error_bars_are_honest(rank: int, store: da.InfluenceStore, exact: da.Attribution) -> None:
    found = da.Attributor(store, rank=rank).attribute(NEW)
    assert found.errors is not None and found.token_errors is not None
    assert found.errors.shape == found.scores.shape == (len(NEW), SOURCES)
    ratios = (found.scores - exact.scores) / found.errors
    assert 0.75 < np.sqrt(np.square(ratios).mean()) < 1.35
    of_tokens = [
        (one - other) / error
        for one, other, error in zip(found.token_scores, exact.token_scores, found.token_errors, strict=True)
    ]
    assert 0.6 < np.sqrt(np.square(np.concatenate(of_tokens, axis=1)).mean()) < 1.6


def test_more_directions_leave_less(store: da.InfluenceStore, exact: da.Attribution) -> None:
    left = [apart(da.Attributor(store, rank=rank).attribute(NEW).scores, exact.scores) for rank in (1, 4, 8, 12)]
    assert left == sorted(left, reverse=True) and left[1] < 0.5 and left[3] < 1e-5


def test_token_scores_add_up_to_the_score(store: da.InfluenceStore) -> None:
    found = da.Attributor(store, rank=3).attribute(NEW[:5])
    for score, of_tokens in zip(found.scores, found.token_scores, strict=True):
        np.testing.assert_allclose(of_tokens.sum(1), score, rtol=1e-6)


def test_some_sources_through_the_same_directions(store: da.InfluenceStore) -> None:
    whole = da.Attributor(store, rank=5).attribute(NEW[:5])
    part = da.Attributor(store, rank=5, rows=[7, 2]).attribute(NEW[:5])
    assert part.sources == ["s7", "s2"]
    np.testing.assert_allclose(part.scores, whole.scores[:, [7, 2]], rtol=1e-6)
    assert part.errors is not None and whole.errors is not None
    np.testing.assert_allclose(part.errors, whole.errors[:, [7, 2]], rtol=1e-6)


def test_only_the_directions_are_held(store: da.InfluenceStore) -> None:
    assert len(da.Attributor(store, rank=5).rows) == 5
    assert da.Attributor(store, rank=5).attribute([]).errors is not None


def test_energy_chooses_the_rank_and_a_new_basis_replaces_the_old(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    told: list[tuple[str, int, int]] = []
    first = calibrate(store, queries(20, seed=1), energy=0.5, progress=lambda *now: told.append(now))
    assert told[:2] == [("queries", 1, 20), ("queries", 2, 20)]
    assert ("directions", first.rank, first.rank) in told and told[-1][1:] == (20, 20)
    second = calibrate(store, queries(20, seed=1), energy=0.95)
    assert first.rank < second.rank < SOURCES and first.energy < 0.95 <= second.energy
    basis = open_basis(store)
    assert basis is not None and basis.manifest.rank == second.rank and basis.manifest.queries == 20


def test_what_cannot_be_is_refused(store: da.InfluenceStore, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="ask for the counterfactual readout without a rank"):
        da.Attributor(store, rank=2).attribute(NEW, "counterfactual")
    with pytest.raises(StoreError, match="the rank asked for is 13; choose one between 1 and 12"):
        da.Attributor(store, rank=13)
    bare = make_store(tmp_path)
    with pytest.raises(StoreError, match="has no readout basis; make one with dist-attr calibrate"):
        da.Attributor(bare, rank=2)
    with pytest.raises(QueryError, match="at least 8 calibration queries, there are 7"):
        calibrate(bare, queries(7, seed=1), rank=2)
    with pytest.raises(QueryError, match="with 10 calibration queries and 12 sources it is at most 10"):
        calibrate(bare, queries(10, seed=1), rank=11)
    assert open_basis(bare) is None


def test_sampled_queries_are_pieces_of_the_texts(store: da.InfluenceStore) -> None:
    texts = ["one two three four five six seven eight nine ten " * 40, "ça, où? " * 9, "x"]
    attributor = da.Attributor(store, rank=1)
    found = sample_queries(texts, 30, attributor.fits)
    assert len(found) == 30 and found == sample_queries(texts, 30, attributor.fits)
    with pytest.raises(QueryError, match="of 40 pieces of the documents only 0 fit"):
        sample_queries(["", " "], 2, attributor.fits)
    assert all(any(query.prompt + query.completion in text for text in texts) for query in found)
    assert len(attributor.attribute(found).tokens) == 30
    assert len({query.prompt for query in found}) > 5
