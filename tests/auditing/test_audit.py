"""Audits on a real cluster: the same scores as anywhere else, each once, whatever dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import dist_attr as da
from dist_attr.auditing import (
    Audit,
    audit,
    net_effect,
    positive_share,
    read_audit,
    read_audit_queries,
    read_scores,
    shares,
)
from dist_attr.auditing.result import matrix
from dist_attr.config import AuditConfig
from dist_attr.errors import ConfigError, CorpusError, QueryError, StoreError
from tests.auditing.conftest import QUERIES, SOURCES
from tests.s3_server import S3Server
from tests.stores import make_store

pytestmark = pytest.mark.usefixtures("cluster")
SMALL = AuditConfig(part=2, resamples=100)


def audited(folder: Path, out: Path, config: AuditConfig = SMALL, **others: Any) -> Audit:
    return audit(f"{folder}/influence.zarr", f"{folder}/queries.jsonl", f"{out}", config, **others)


def scores_in(folder: Path, out: Path) -> pa.Table:
    """The scores of an audit in the order of its queries."""
    found = read_scores(str(out))
    row = {name: i for i, name in enumerate(found["id"].to_pylist())}
    assert len(row) == len(found) == QUERIES
    return found.take([row[query.name] for query in read_audit_queries(f"{folder}/queries.jsonl")])


def files_in(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each part: a part that is written again has others."""
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in out.glob("scores/*/*.parquet")}


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an audit with everything in it."""
    out = tmp_path_factory.mktemp("finished") / "audit"
    seen = list[tuple[str, int, int]]()
    config = AuditConfig(part=4, tokens=True, shapley=15, resamples=200)
    audited(folder, out, config, progress=lambda *step: seen.append(step))
    done = [done for what, done, of in seen if what == "reading out" and of == QUERIES]
    assert done[0] == 0 and done[-1] == QUERIES and done == sorted(done) and len(done) > 5
    return out


@pytest.fixture(scope="module")
def small(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an audit with many parts, by two workers."""
    out = tmp_path_factory.mktemp("small") / "audit"
    audited(folder, out)
    return out


@pytest.mark.parametrize("readout", ["linear", "counterfactual"])
def test_scores_are_those_of_the_library_whatever_the_parts_and_workers(
    folder: Path, small: Path, tmp_path: Path, readout: Literal["linear", "counterfactual"]
) -> None:
    out, parts = small, 3 + 6 + 6
    if readout == "counterfactual":
        out, parts = tmp_path / "out", 3
        audited(folder, out, AuditConfig(readout=readout, resamples=100), workers=1)
    queries = read_audit_queries(f"{folder}/queries.jsonl")
    true = da.Attributor(da.open_store(f"{folder}/influence.zarr")).attribute(queries, readout)
    scores = scores_in(folder, out)
    np.testing.assert_allclose(matrix(scores["scores"], len(SOURCES)), true.scores, atol=2e-5)
    np.testing.assert_allclose(scores["logprob"], [own.sum() for own in true.token_logprobs], atol=2e-5)
    assert scores["baseline_logprob"].to_pylist()[3] == pytest.approx(true.baseline_logprobs[3], abs=2e-5)
    assert scores["group"].to_pylist() == [query.group for query in queries]
    assert scores["weight"].to_pylist() == [query.weight for query in queries]
    assert len(files_in(out)) == parts


def test_tokens_and_shapley_values_add_up(folder: Path, finished: Path) -> None:
    queries = read_audit_queries(f"{folder}/queries.jsonl")
    store = da.open_store(f"{folder}/influence.zarr")
    scores, true = scores_in(folder, finished), da.Attributor(store).attribute(queries)
    for i, query in enumerate(queries):
        tokens = np.array(scores["token_scores"][i].as_py())
        np.testing.assert_allclose(tokens, true.token_scores[i], atol=2e-5)
        if query.baseline is None:
            np.testing.assert_allclose(tokens.sum(1), scores["scores"][i].as_py(), atol=2e-5)
        assert "".join(scores["tokens"][i].as_py()).replace("Ġ", " ") == query.completion
        assert scores["completion_tokens"][i].as_py() == len(scores["token_logprobs"][i]) == tokens.shape[1]
    # Without all sources the model has other parameters: what that costs is what there is to divide.
    attributor = da.Attributor(store)
    plain = [query.model_copy(update={"baseline": None}) for query in queries]
    encoded, _ = attributor.engine.encode_all(plain)
    away = attributor.rows.mixed(torch.ones(1, len(SOURCES)))
    costs = [read.scores.sum() for read in attributor.engine.read(encoded, away, "counterfactual")]
    values = matrix(scores["shapley"], len(SOURCES)).sum(1)
    own = [i for i, query in enumerate(queries) if query.baseline is None]
    np.testing.assert_allclose(values[own], np.array(costs)[own], atol=1e-4)
    assert abs(values[own] - matrix(scores["scores"], len(SOURCES)).sum(1)[own]).max() > 1e-3  # a game of its own


def test_the_result_follows_from_the_files(folder: Path, finished: Path) -> None:
    found, store = read_audit(str(finished)), da.open_store(f"{folder}/influence.zarr")
    scores, weights = scores_in(folder, finished), np.array(scores_in(folder, finished)["weight"])
    groups = scores["group"].to_pylist()
    for kind, column in (("", "scores"), ("Shapley ", "shapley")):
        values = matrix(scores[column], len(SOURCES))
        for scope, group in (("all", None), ("group", None), ("group", "talk/0"), ("group", "talk/1")):
            some = np.array([scope == "all" or each == group for each in groups])
            for measure, reckoned in (("positive share", positive_share), ("net effect", net_effect)):
                measure = measure if not kind else kind + measure
                table = found.table(measure, group, scope)  # type: ignore[arg-type]
                assert table.queries == some.sum() and table.weight == weights[some].sum()
                expected = reckoned(values[some], weights[some])
                assert [source.value for source in table.sources] == pytest.approx(expected.tolist())
    whole = found.table("positive share")
    assert sum(source.value or 0.0 for source in whole.sources) == pytest.approx(1)
    for source, record in zip(found.sources, store.records, strict=True):
        assert (source.name, source.tokens) == (record.name, record.tokens)
    assert found.shapley is not None and found.shapley.exact and found.shapley.sets == 15
    assert found.duplicates is not None
    assert [(pair.first, pair.second) for pair in found.duplicates] == [("ant", "bee")]
    assert found.duplicates[0].examples[0].second == "bee-copy"
    assert any("ant and bee share documents" in warning for warning in found.warnings)
    assert any("Nobody has compared the linear scores" in warning for warning in found.warnings)
    assert (found.identity, found.corpus) == (store.manifest.identity, store.manifest.corpus)
    rows = pq.read_table(finished / "shares.parquet").to_pylist()
    assert len(rows) == 4 * 4 * len(SOURCES)
    first = found.tables[0].sources[0]
    assert {name: rows[0][name] for name in first.model_dump()} == first.model_dump()
    assert pq.read_table(finished / "sources.parquet")["name"].to_pylist() == SOURCES


def test_scores_from_a_basis_bring_their_errors_into_the_intervals(folder: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path, SOURCES, context=48)
    queries = read_audit_queries(f"{folder}/queries.jsonl")
    da.calibrate(store, [query for query in queries if query.baseline is None], rank=3)
    config = AuditConfig(rank=2, resamples=100)
    found = audit(store.url, f"{folder}/queries.jsonl", f"{tmp_path}/out", config, workers=1)
    true, scores = (
        da.Attributor(da.open_store(store.url), rank=2).attribute(queries),
        scores_in(folder, tmp_path / "out"),
    )
    assert true.errors is not None
    np.testing.assert_allclose(matrix(scores["scores"], len(SOURCES)), true.scores, atol=2e-5)
    np.testing.assert_allclose(matrix(scores["errors"], len(SOURCES)), true.errors, atol=2e-5)
    weights = np.array([query.weight for query in queries])
    without = shares(matrix(scores["scores"], len(SOURCES)), weights, resamples=100).net
    for source, low, high in zip(found.table("net effect").sources, without.low, without.high, strict=True):
        assert source.low is not None and source.high is not None
        assert source.high - source.low > high - low


def test_any_reader_of_parquet_finds_the_groups(finished: Path) -> None:
    pandas = pytest.importorskip("pandas")
    found = pandas.read_parquet(finished / "scores")
    assert set(found["group"].astype(str)) == {"", "talk/0", "talk/1"} and len(found) == QUERIES
    assert np.stack(found["scores"].tolist()).shape == (QUERIES, len(SOURCES))


def test_a_second_run_reads_out_only_what_is_missing(folder: Path, small: Path, tmp_path: Path) -> None:
    out = shutil.copytree(small, tmp_path / "out")
    first, before = read_audit(str(out)), files_in(out)
    missing, cut, *kept = sorted(before)
    Path(missing).unlink()
    data = Path(cut).read_bytes()
    Path(cut).write_bytes(data[: len(data) // 2])
    # What lies there is taken as it is: a mark that is put into it comes back.
    table = pq.read_table(kept[0])
    marked = table.set_column(table.column_names.index("logprob"), "logprob", pa.array([-7.25] * len(table)))
    pq.write_table(marked, kept[0])
    before = files_in(out)
    again, after = audited(folder, out), files_in(out)
    assert {name for name in after if after[name] != before.get(name)} == {missing, cut}
    assert -7.25 in read_scores(str(out), ["logprob"])["logprob"].to_pylist()
    assert again.tables == first.tables
    # With other settings of the shares nothing is read out, but reckoned anew.
    other = audited(folder, out, SMALL.model_copy(update={"resamples": 300}))
    assert files_in(out) == after and other.tables != first.tables
    assert [share.value for share in other.tables[0].sources] == [share.value for share in first.tables[0].sources]


def test_a_folder_belongs_to_one_audit(folder: Path, finished: Path, tmp_path: Path) -> None:
    config = read_audit(str(finished)).options
    before = files_in(finished)
    with pytest.raises(ConfigError, match='another audit: readout "linear" instead of "counterfactual"; give another'):
        audited(folder, finished, config.model_copy(update={"readout": "counterfactual"}))
    make_store(tmp_path, SOURCES, context=48, seed=1)
    with pytest.raises(ConfigError, match="holds another audit: another store"):
        audit(f"{tmp_path}/influence.zarr", f"{folder}/queries.jsonl", str(finished), config)
    some = tmp_path / "some.jsonl"
    some.write_text("\n".join((folder / "queries.jsonl").read_text().splitlines()[1:]))
    with pytest.raises(ConfigError, match="holds another audit: other queries"):
        audit(f"{folder}/influence.zarr", str(some), str(finished), config)
    (tmp_path / "foreign" / "scores").mkdir(parents=True)
    with pytest.raises(ConfigError, match="nothing says what they are of"):
        audited(folder, tmp_path / "foreign")
    assert files_in(finished) == before
    # The same queries in another order are the same audit.
    some.write_text("\n".join(reversed((folder / "queries.jsonl").read_text().splitlines())))
    audit(f"{folder}/influence.zarr", str(some), str(finished), config)
    assert files_in(finished) == before


def test_what_was_put_among_the_scores_is_not_counted(folder: Path, small: Path, tmp_path: Path) -> None:
    out = shutil.copytree(small, tmp_path / "out")
    one = sorted(files_in(out))[0]
    Path(one).with_name("another.parquet").write_bytes(Path(one).read_bytes())
    with pytest.raises(StoreError, match=f"holds scores of {QUERIES + 2} answers where {QUERIES} were asked for"):
        audited(folder, out)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"completion": " a"}, {"completion": " a"}], "more than once; give each row an id of its own"),
        ([{"completion": " a", "id": 7}, {"completion": " b", "id": "7"}], "the id '7' more than once"),
        ([], "holds no queries"),
        ([{"completion": " a", "weight": 0}], "line 1: weight: Input should be greater than 0"),
        ([{"completion": " a", "id": "x", "text": "b"}], "line 1: text: Extra inputs are not permitted"),
        (
            [{"completion": " a"}, {"completion": "a" * 60, "id": "long"}, {"completion": "", "id": "none"}],
            r"2 of 3 queries cannot be scored, the ids 'long', 'none': prompt \(1 tokens\)",
        ),
    ],
)
def test_queries_that_cannot_be_audited_are_refused_before_anything_is_done(
    folder: Path, tmp_path: Path, rows: list[dict[str, Any]], said: str
) -> None:
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(QueryError, match=said):
        audit(f"{folder}/influence.zarr", f"{tmp_path}/q.jsonl", f"{tmp_path}/out", SMALL)
    assert not (tmp_path / "out").exists()


def test_a_query_keeps_its_id_and_missing_values_of_a_table_are_none(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": " b"}, {"prompt": "a", "completion": " c"}]
    table = pa.Table.from_pylist(rows).append_column("id", pa.array([None, "x"]))
    table = table.append_column("weight", pa.array([None, 2.5])).append_column("group", pa.array([None, "g"]))
    pq.write_table(table, tmp_path / "q.parquet")
    (tmp_path / "q.jsonl").write_text(json.dumps(rows[0]))
    first, second = read_audit_queries(f"{tmp_path}/q.parquet")
    assert first.id == read_audit_queries(f"{tmp_path}/q.jsonl")[0].id and len(first.name) == 16
    assert (first.weight, first.group, second.weight, second.name) == (1.0, None, 2.5, "x")


def test_what_is_wrong_with_the_store_reaches_the_user(folder: Path, tmp_path: Path) -> None:
    make_store(tmp_path, SOURCES, context=48)
    chunk = next(file for file in sorted((tmp_path / "influence.zarr/tangents/c").rglob("*")) if file.is_file())
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        audit(f"{tmp_path}/influence.zarr", f"{folder}/queries.jsonl", f"{tmp_path}/out", SMALL)
    with pytest.raises(CorpusError, match="does not exist"):
        audited(folder, tmp_path / "other", corpus=f"{tmp_path}/none.jsonl")
    assert not (tmp_path / "other").exists()


def test_an_audit_from_s3_to_s3_is_the_same(folder: Path, small: Path, s3: S3Server) -> None:
    bucket = f"bucket-{uuid4().hex}"
    s3.files().mkdir(bucket)
    for name in ("influence.zarr", "model", "queries.jsonl"):
        s3.files().put(f"{folder}/{name}", f"{bucket}/{name}", recursive=True)
    url, seen = f"s3://{bucket}", list[int]()

    def interrupt(what: str, done: int, of: int) -> None:
        seen.append(done)
        if what == "reading out" and done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(f"{url}/influence.zarr", f"{url}/queries.jsonl", f"{url}/audit", SMALL, progress=interrupt)
    kept = s3.files().find(f"{bucket}/audit/scores", detail=True)
    assert len(kept) >= 5 and not s3.files().exists(f"{bucket}/audit/audit.json")
    found = audit(f"{url}/influence.zarr", f"{url}/queries.jsonl", f"{url}/audit", SMALL)
    after = s3.files().find(f"{bucket}/audit/scores", detail=True)
    assert {Path(name).name for name in after} == {Path(name).name for name in files_in(small)}
    assert all(after[name]["LastModified"] == kept[name]["LastModified"] for name in kept)
    assert read_audit(f"{url}/audit") == found
    for table, other in zip(found.tables, read_audit(str(small)).tables, strict=True):
        assert [share.value for share in table.sources] == pytest.approx(
            [share.value for share in other.sources], abs=1e-5
        )


def test_a_killed_worker_costs_nothing_but_time(folder: Path, small: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(what: str, done: int, of: int) -> None:
        if what == "reading out" and 0 < done < of and not killed:
            for process in psutil.process_iter(["cmdline"]):
                if "PartReader" in " ".join(process.info["cmdline"] or ()) and _is_ours(process):
                    process.send_signal(signal.SIGKILL)
                    killed.append(process.pid)

    found = audited(folder, tmp_path / "killed", workers=1, progress=kill)
    assert len(killed) == 1
    names = {Path(name).name for name in files_in(tmp_path / "killed")}
    assert names == {Path(name).name for name in files_in(small)}
    one, other = (matrix(scores_in(folder, out)["scores"], len(SOURCES)) for out in (tmp_path / "killed", small))
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert found.number == QUERIES


def _is_ours(process: psutil.Process) -> bool:
    return os.getpid() in [parent.pid for parent in process.parents()]


def test_a_killed_driver_loses_nothing_that_is_finished(
    folder: Path, small: Path, tmp_path: Path, cluster: str
) -> None:
    out = tmp_path / "out"
    code = f"""
import os, signal
from dist_attr.auditing import audit
from dist_attr.config import AuditConfig

def kill(what, done, of):
    if what == "reading out" and done >= 2:
        os.kill(os.getpid(), signal.SIGKILL)

audit({f"{folder}/influence.zarr"!r}, {f"{folder}/queries.jsonl"!r}, {str(out)!r}, AuditConfig(part=2, resamples=100),
      workers=1, progress=kill)
"""
    environment = {**os.environ, "RAY_ADDRESS": cluster}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False, start_new_session=True)
    assert done.returncode == -signal.SIGKILL
    assert not (out / "audit.json").exists()
    before = files_in(out)
    assert 1 <= len(before) < QUERIES // 2
    audited(folder, out)
    after = files_in(out)
    assert all(after[name] == before[name] for name in before)
    assert {Path(name).name for name in after} == {Path(name).name for name in files_in(small)}
    one, other = (matrix(scores_in(folder, each)["scores"], len(SOURCES)) for each in (out, small))
    np.testing.assert_allclose(one, other, atol=1e-6)
