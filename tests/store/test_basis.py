"""The readout basis in a finished store: written, replaced, damaged, of another store, and hostile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dist_attr.config import CodecName
from dist_attr.errors import DamagedError, StoreError
from dist_attr.store import (
    Encoded,
    InfluenceStore,
    Place,
    check_writable,
    copy_store,
    open_basis,
    open_store,
    parts_of,
    remove_store,
    write_basis,
)
from dist_attr.store.manifest import checksum_of
from tests.s3_server import S3Server
from tests.store.test_s3 import finished
from tests.store.test_transfer import CODECS, SIZE, interrupt_after, make

Numbers = NDArray[np.float32]
S = 4


def encoded(store: InfluenceStore, directions: Numbers) -> list[Encoded]:
    return [store.codec.encode(direction) for direction in directions]


def draws(rank: int, seed: int = 0) -> tuple[Numbers, tuple[Numbers, Numbers, Numbers]]:
    """Directions (R, P), and three small arrays (R, S)."""
    draw = np.random.default_rng(seed)
    small = tuple(draw.standard_normal((rank, S)).astype(np.float32) for _ in range(3))
    return draw.standard_normal((rank, SIZE)).astype(np.float32), small  # type: ignore[return-value]


def calibrated(url: str, rank: int = 3, codec: CodecName = "int8", seed: int = 0) -> InfluenceStore:
    """A store with a basis of random directions."""
    store = open_store(make(url, codec))
    directions, small = draws(rank, seed)
    write_basis(store, encoded(store, directions), small, queries=8, energy=0.9)
    return store


def decoded(store: InfluenceStore, rank: int | None = None) -> Numbers:
    basis = open_basis(store)
    assert basis is not None
    rank = rank or basis.manifest.rank
    out = np.empty((rank, SIZE), np.float32)
    for row, values in zip(basis.rows(range(rank)).directions, out, strict=True):
        store.codec.decode(row, values)
    return out


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("place", ["memory", "path"])
def test_it_comes_back_as_the_stores_codec_has_it(place: str, codec: CodecName, tmp_path: Path) -> None:
    store = calibrated({"path": f"{tmp_path}/a.zarr", "memory": f"memory://basis/{codec}.zarr"}[place], codec=codec)
    directions, small = draws(3)
    again = open_store(store.url)
    basis = open_basis(again)
    assert basis is not None
    assert (basis.manifest.rank, basis.manifest.queries, basis.manifest.energy) == (3, 8, 0.9)
    for found, row in zip(decoded(again), directions, strict=True):
        assert (np.abs(found - row) <= store.codec.bound(row)).all()
    rows = basis.rows(range(2))
    assert len(rows.directions) == 2
    for found, values in zip((rows.mixing, rows.residual, rows.token_residual), small, strict=True):
        assert np.array_equal(found, values[:2])
    assert np.array_equal(again.tangents(), store.tangents()) and again.verify() == {}
    check_writable(store)
    assert decoded(store, 2).shape == (2, SIZE)


def test_on_s3_it_is_written_replaced_found_damaged_and_removed(s3: S3Server, bucket: str) -> None:
    finished(f"{bucket}/a.zarr", s3.options, np.ones((S, SIZE), np.float32), "int8")
    store, files = open_store(f"{bucket}/a.zarr", options=s3.options), s3.files()
    check_writable(store)
    assert open_basis(store) is None and not files.exists(f"{bucket}/a.zarr/basis.part")
    for rank in (4, 2):
        directions, small = draws(rank, seed=rank)
        write_basis(store, encoded(store, directions), small, queries=8, energy=0.9)
        for found, row in zip(decoded(open_store(store.url, options=s3.options)), directions, strict=True):
            assert (np.abs(found - row) <= store.codec.bound(row)).all()
    assert len(files.find(f"{bucket}/a.zarr/basis/directions/c")) == 2
    name = f"{bucket}/a.zarr/basis/residual/c/1/0"
    data = bytearray(files.cat_file(name))
    data[len(data) // 3] ^= 1
    files.pipe_file(name, bytes(data))
    basis = open_basis(store)
    assert basis is not None
    with pytest.raises(DamagedError, match="direction 1"):
        basis.verify()
    remove_store(store.place)
    files.invalidate_cache()
    assert files.find(bucket) == []


def test_a_store_without_one_has_none(tmp_path: Path) -> None:
    assert open_basis(open_store(make(f"{tmp_path}/a.zarr"))) is None


@pytest.mark.parametrize("rank", [0, 4, -1])
def test_a_rank_it_does_not_have(rank: int, tmp_path: Path) -> None:
    basis = open_basis(calibrated(f"{tmp_path}/a.zarr"))
    assert basis is not None
    with pytest.raises(StoreError, match=f"has 3 directions, the rank asked for is {rank}; choose one between 1 and 3"):
        basis.check_rank(rank)


@pytest.mark.parametrize("rank", [1, 4])
def test_a_new_one_replaces_the_old(rank: int, tmp_path: Path) -> None:
    store = calibrated(f"{tmp_path}/a.zarr", codec="float32")
    directions, small = draws(rank, seed=1)
    write_basis(store, encoded(store, directions), small, queries=9, energy=0.5)
    assert np.array_equal(decoded(store), directions)
    basis = open_basis(store)
    assert basis is not None and basis.manifest.queries == 9
    assert len(list((tmp_path / "a.zarr" / "basis" / "directions" / "c").iterdir())) == rank


@pytest.mark.parametrize("before", [False, True], ids=["first", "replacing"])
def test_one_that_is_half_written_is_none(before: bool, tmp_path: Path) -> None:
    store = calibrated(f"{tmp_path}/a.zarr") if before else open_store(make(f"{tmp_path}/a.zarr", "int8"))
    directions, small = draws(3, seed=1)

    with pytest.raises(KeyboardInterrupt):
        write_basis(store, encoded(store, directions), small, queries=8, energy=0.9, progress=interrupt_after(2))
    assert (tmp_path / "a.zarr" / "basis" / "directions" / "c" / "1").exists()
    assert open_basis(open_store(store.url)) is None and open_store(store.url).verify() == {}
    write_basis(store, encoded(store, directions), small, queries=8, energy=0.9)
    assert open_basis(store) is not None


FILES = ["directions/c/1/0", "scales/c/1/0", "mixing/c/1/0", "residual/c/1/0", "token_residual/c/1/0"]


@pytest.mark.parametrize("lost", [False, True], ids=["flipped", "lost"])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_found_and_never_served(name: str, lost: bool, tmp_path: Path) -> None:
    store = calibrated(f"{tmp_path}/a.zarr")
    file = tmp_path / "a.zarr" / "basis" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.unlink() if lost else file.write_bytes(bytes(data))
    basis = open_basis(store)
    assert basis is not None
    with pytest.raises(DamagedError, match=r"basis of .*a\.zarr is damaged, direction 1"):
        basis.rows(range(3))
    assert len(basis.rows(range(1)).directions) == 1
    assert store.verify() == {}


def test_rows_that_changed_places_are_found(tmp_path: Path) -> None:
    store = calibrated(f"{tmp_path}/a.zarr")
    folder = tmp_path / "a.zarr" / "basis" / "mixing" / "c"
    one, other = folder / "0" / "0", folder / "1" / "0"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    basis = open_basis(store)
    assert basis is not None
    with pytest.raises(DamagedError, match="does not have its checksum"):
        basis.rows(range(3))


def test_the_basis_of_another_store_is_refused(tmp_path: Path) -> None:
    calibrated(f"{tmp_path}/a.zarr")
    other = open_store(make(f"{tmp_path}/b.zarr", "int8", names=("eel", "fox", "gnu", "hen")))
    shutil.copytree(tmp_path / "a.zarr" / "basis", tmp_path / "b.zarr" / "basis")
    with pytest.raises(StoreError, match="belongs to another store's tangents"):
        open_basis(other)


def alter(folder: Path, fitting: bool = True, **changes: Any) -> None:
    """Change the basis's manifest; with `fitting`, its checksum too."""
    values = json.loads((folder / "basis" / "zarr.json").read_text())
    values["attributes"]["dist_attr"] |= changes
    if fitting:
        values["attributes"]["dist_attr_sha256"] = checksum_of(values["attributes"]["dist_attr"])
    (folder / "basis" / "zarr.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": []},
        {"rows": ["0" * 64] * 2},
        {"rows": ["0" * 64] * 5},
        {"rows": ["../../x"] * 3},
        {"rows": 2**62},
        {"energy": 2.0},
        {"queries": -1},
        {"path": "http://127.0.0.1:9/x"},
    ],
    ids=lambda changes: json.dumps(changes)[:40],
)
def test_a_manifest_that_cannot_be(changes: dict[str, Any], tmp_path: Path) -> None:
    store = calibrated(f"{tmp_path}/a.zarr")
    alter(tmp_path / "a.zarr", **changes)
    with pytest.raises(DamagedError, match=r"is damaged: ."):
        open_basis(store)


def test_a_manifest_without_its_checksum(tmp_path: Path) -> None:
    store = calibrated(f"{tmp_path}/a.zarr")
    alter(tmp_path / "a.zarr", fitting=False, energy=0.95)
    with pytest.raises(DamagedError, match="its manifest does not have its checksum"):
        open_basis(store)


@pytest.mark.filterwarnings("ignore")  # Zarr's, of what it is about to refuse
@pytest.mark.parametrize("name", ["directions", "scales", "mixing", "residual", "token_residual"])
@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [3, 2**62]},
        {"shape": [2**62, 4]},
        {"data_type": "|O"},
        {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]},
        {"fill_value": 1},
        {"node_type": "group"},
    ],
    ids=lambda changes: json.dumps(changes)[:30],
)
def test_another_array_than_its_manifest_prescribes(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    store = calibrated(f"{tmp_path}/a.zarr")
    file = tmp_path / "a.zarr" / "basis" / name / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(DamagedError, match=r"the basis of .*a\.zarr is damaged"):
        open_basis(store)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "NaN", "\x00"], ids=lambda text: text[:5])
def test_json_that_is_no_group(text: str, tmp_path: Path) -> None:
    store = calibrated(f"{tmp_path}/a.zarr")
    (tmp_path / "a.zarr" / "basis" / "zarr.json").write_text(text)
    with pytest.raises(DamagedError, match=r"the basis of .*a\.zarr is damaged"):
        open_basis(store)


def test_rm_removes_it_and_copy_leaves_it(tmp_path: Path) -> None:
    store = calibrated(f"{tmp_path}/a.zarr")
    copy_store(store, Place(f"{tmp_path}/b.zarr"))
    assert open_basis(open_store(f"{tmp_path}/b.zarr")) is None
    assert parts_of(store.place)["basis"] > 0
    remove_store(store.place)
    assert not (tmp_path / "a.zarr").exists()


def test_where_nothing_may_be_written_is_known_before(tmp_path: Path) -> None:
    store = open_store(make(f"{tmp_path}/a.zarr"))
    check_writable(store)
    assert "basis.part" not in parts_of(store.place) and open_basis(store) is None
    shutil.rmtree(tmp_path / "a.zarr")
    (tmp_path / "a.zarr").write_text("in the way, whoever one is")
    with pytest.raises(StoreError, match="cannot reach"):
        check_writable(store)
