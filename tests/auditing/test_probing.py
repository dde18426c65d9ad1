"""Probing in an audit: what `dist-attr compare` measures, for each query once, and nothing else changed by it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import dist_attr as da
from dist_attr.auditing import AuditQuery, audit, read_audit, read_audit_queries, read_scores
from dist_attr.auditing.probing import PROBED, check_probing
from dist_attr.auditing.result import matrix
from dist_attr.auditing.shares import Floats
from dist_attr.cli import app
from dist_attr.config import AuditConfig, ProbeConfig
from dist_attr.corpus import Document
from dist_attr.errors import ConfigError, CorpusError, QueryError, StoreError
from dist_attr.probing import CompareOptions, Measurements, Question, agreement, comparison, documents_of, measure
from dist_attr.readout import store_tokenizer
from tests.auditing.conftest import SOURCES, WORDS
from tests.stores import make_store

QUERIES, CONTEXT = 20, 192
PROBE = ProbeConfig(documents=2, window=40)
CONFIG = AuditConfig(part=2, resamples=100, probe=PROBE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with documents of one to three windows, and `queries.jsonl` of two groups and none."""
    folder, draw = tmp_path_factory.mktemp("probing"), np.random.default_rng(1)
    documents = [
        Document(f"{source}-{n}", " ".join(draw.choice(WORDS, 4 + 4 * n)), source, {})
        for source in SOURCES
        for n in range(4)
    ]
    make_store(folder, SOURCES, context=CONTEXT, documents=documents)
    rows = [
        {"id": f"q{n}", "prompt": f"the {draw.choice(WORDS)}", "completion": f" of {draw.choice(WORDS)}", **group}
        for n in range(QUERIES)
        for group in [{"group": f"g{n % 2}"} if n % 5 else {}]
    ]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def probed(folder: Path, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an audit with probing, of many parts, by two workers."""
    out = tmp_path_factory.mktemp("probed") / "audit"
    audit(f"{folder}/influence.zarr", f"{folder}/queries.jsonl", f"{out}", CONFIG)
    return out


def compared(folder: Path, config: ProbeConfig) -> Measurements:
    """What `dist-attr compare` measures of the same queries, all in this process."""
    questions = [
        Question.model_validate(query.model_dump(include={"id", "group", "prompt", "completion"}))
        for query in read_audit_queries(f"{folder}/queries.jsonl")
    ]
    return measure(da.open_store(f"{folder}/influence.zarr"), questions, CompareOptions(probe=config))


def columns_in(folder: Path, out: Path) -> dict[str, Floats]:
    """The lists of an audit, each (queries, sources) in the order of the queries."""
    found = read_scores(str(out))
    row = {name: i for i, name in enumerate(found["id"].to_pylist())}
    assert len(row) == len(found) == QUERIES
    ordered = found.take([row[query.name] for query in read_audit_queries(f"{folder}/queries.jsonl")])
    there = ("scores", *(name for name in PROBED if name in found.column_names))
    return {name: matrix(ordered[name], len(SOURCES)) for name in there}


def check_columns(found: dict[str, Floats], measured: Measurements) -> None:
    for name, theirs in (("scores", "influence"), ("probing", "mean"), ("bm25", "bm25"), ("passage_tokens", "tokens")):
        np.testing.assert_allclose(found[name], measured.stacked(theirs), atol=2e-5, rtol=1e-5)


def test_probing_is_that_of_compare_whatever_the_parts_and_workers(folder: Path, probed: Path) -> None:
    measured, columns = compared(folder, PROBE), columns_in(folder, probed)
    check_columns(columns, measured)
    assert np.ptp(columns["probing"], axis=1).min() > 0 and len(np.unique(columns["passage_tokens"])) > 1
    facts = read_audit(str(probed)).probing
    assert facts is not None and (facts.options, facts.window) == (PROBE, 40)
    expected = comparison(da.open_store(f"{folder}/influence.zarr"), measured, seed=0, command="").agreement
    cohorts = (facts.agreement.overall, *facts.agreement.groups)
    for ours, theirs in zip(cohorts, (expected.overall, *expected.groups), strict=True):
        assert (ours.group, ours.queries) == (theirs.group, theirs.queries)
        assert ours.spearman.value == pytest.approx(theirs.spearman.value)
        assert ours.golden.spearman.value == pytest.approx(theirs.golden.spearman.value)
        assert set(ours.partial) == set(theirs.partial) == {"bm25", "tokens", "bm25 + tokens"}
    reckoned = agreement(
        columns["scores"],
        columns["probing"],
        covariates={"bm25": columns["bm25"], "tokens": columns["passage_tokens"]},
        groups=[question.group for question in measured.questions],
    )
    assert facts.agreement == reckoned.model_copy(update={"per_query": ()})


def test_without_probing_everything_else_is_the_same(folder: Path, probed: Path, tmp_path: Path) -> None:
    asked = f"{folder}/influence.zarr", f"{folder}/queries.jsonl"
    found = audit(*asked, f"{tmp_path}/out", CONFIG.model_copy(update={"probe": None}))
    columns, other = columns_in(folder, tmp_path / "out"), read_audit(str(probed))
    assert found.probing is None and list(columns) == ["scores"]
    np.testing.assert_allclose(columns["scores"], columns_in(folder, probed)["scores"], atol=1e-6)
    for ours, theirs in zip(found.tables, other.tables, strict=True):
        assert (ours.measure, ours.group) == (theirs.measure, theirs.group)
        for one, two in zip(ours.sources, theirs.sources, strict=True):
            assert (one.low, one.value, one.high) == pytest.approx((two.low, two.value, two.high), abs=1e-5)
    assert found.warnings == other.warnings
    for config in (CONFIG, CONFIG.model_copy(update={"probe": ProbeConfig(documents=3)})):
        with pytest.raises(ConfigError, match="holds another audit: probe"):
            audit(*asked, f"{probed if config.probe != PROBE else tmp_path / 'out'}", config)


def test_a_killed_audit_goes_on_with_what_was_probed(folder: Path, probed: Path, tmp_path: Path, cluster: str) -> None:
    out, asked = tmp_path / "out", (f"{folder}/influence.zarr", f"{folder}/queries.jsonl")
    code = f"""
import os, signal
from dist_attr.auditing import audit
from dist_attr.config import AuditConfig

def kill(what, done, of):
    if what == "reading out" and done >= 4:
        os.kill(os.getpid(), signal.SIGKILL)

audit(*{asked!r}, {str(out)!r}, AuditConfig.model_validate_json({CONFIG.model_dump_json()!r}), workers=1, progress=kill)
"""
    environment = {**os.environ, "RAY_ADDRESS": cluster}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False, start_new_session=True)
    assert done.returncode == -signal.SIGKILL and not (out / "audit.json").exists()
    before = {file: file.stat().st_mtime_ns for file in out.glob("scores/*/*.parquet")}
    assert 2 <= len(before) < QUERIES // 2
    found = audit(*asked, str(out), CONFIG)
    assert all(file.stat().st_mtime_ns == then for file, then in before.items())
    columns, whole = columns_in(folder, out), columns_in(folder, probed)
    for name in ("scores", *PROBED):
        np.testing.assert_allclose(columns[name], whole[name], atol=1e-5)
    facts, other = found.probing, read_audit(str(probed)).probing
    assert facts is not None and other is not None
    assert facts.agreement.overall.spearman == other.agreement.overall.spearman


@pytest.mark.usefixtures("cluster")
def test_the_command_probes_with_documents_that_lie_elsewhere_now(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("influence.zarr", "model", "queries.jsonl"):
        (tmp_path / name).symlink_to(folder / name)
    monkeypatch.chdir(tmp_path)  # a relative path is not the workers'
    command = ["audit", "influence.zarr", "--queries", "queries.jsonl", "--out", "out", "--resamples", "100"]
    for option in (["--documents", "2"], ["--choose", "bm25"], ["--window", "9", "--documents", "3"]):
        refused = CliRunner().invoke(app, [*command, *option])
        assert isinstance(refused.exception, ConfigError) and "only with --probe" in str(refused.exception)
        assert all(word in str(refused.exception) for word in option[::2])
    (tmp_path / "moved.jsonl").write_bytes((folder / "documents.jsonl").read_bytes())
    wanted = ["--probe", "--choose", "random", "--seed", "5", "--window", "30", "--corpus", "moved.jsonl"]
    result = CliRunner().invoke(app, [*command, *wanted, "--workers", "1"])
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert f"probing rank {len(SOURCES)} sources alike with Spearman's correlation" in said
    assert f"mean of {QUERIES} queries" in said
    same = ProbeConfig(choose="random", seed=5, window=30)
    check_columns(columns_in(folder, tmp_path / "out"), compared(folder, same))


def row(name: str, prompt: str, **more: Any) -> str:
    return json.dumps({"id": name, "prompt": prompt, "completion": " a", **more})


def test_queries_that_cannot_be_probed_are_named_before_anything_is_done(folder: Path, tmp_path: Path) -> None:
    long = "p" * (CONTEXT - 40)  # fits by itself, and not behind a passage
    rows = [row("fits", "p"), row("long", long), row("against", "p", baseline=" b")]
    (tmp_path / "q.jsonl").write_text("\n".join(rows))
    said = r"2 of 3 queries cannot be probed, the ids 'long', 'against': the passage \(\d+ tokens\), the template"
    with pytest.raises(QueryError, match=said):
        audit(f"{folder}/influence.zarr", f"{tmp_path}/q.jsonl", f"{tmp_path}/out", CONFIG)
    (tmp_path / "q.jsonl").write_text("\n".join([rows[0], rows[2]]))
    with pytest.raises(QueryError, match="1 of 2 queries cannot be probed, the id 'against': in-context probing does"):
        audit(f"{folder}/influence.zarr", f"{tmp_path}/q.jsonl", f"{tmp_path}/out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_what_counts_is_whether_a_query_fits_with_its_own_passages(folder: Path) -> None:
    """With a window that is longer than any document, and a prompt that leaves room for some documents only."""
    store = da.open_store(f"{folder}/influence.zarr")
    documents, (tokenizer, context) = documents_of(store), store_tokenizer(store)
    lengths = [len(document.text.encode()) for document in documents]
    longest, template = max(lengths), sum(map(len, ProbeConfig().pieces))
    assert min(lengths) < longest < 120
    # The completion's last token is predicted, not read.
    full = AuditQuery(id="full", prompt="p" * (context + 1 - template - longest - 2), completion=" a")
    more = AuditQuery(id="more", prompt=full.prompt + "p", completion=" a")
    every = ProbeConfig(documents=64, window=context - template)
    assert check_probing([full], store, documents, tokenizer, context, every) == context - template
    with pytest.raises(QueryError, match=rf"1 of 2 queries cannot be probed, the id 'more': the passage \({longest}"):
        check_probing([full, more], store, documents, tokenizer, context, every)


def test_probing_needs_documents_several_sources_and_full_precision(folder: Path, tmp_path: Path) -> None:
    queries, out = f"{folder}/queries.jsonl", tmp_path / "out"
    (tmp_path / "alone").mkdir()
    make_store(tmp_path, SOURCES, context=CONTEXT)
    documents = [Document(source, "peace", source, {}) for source in SOURCES[:2]]
    make_store(tmp_path / "alone", SOURCES[:1], context=CONTEXT, documents=documents)
    with pytest.raises(CorpusError, match="cannot be used"):
        audit(f"{tmp_path}/influence.zarr", queries, str(out), CONFIG)
    with pytest.raises(StoreError, match="has the source 'ant' only"):
        audit(f"{tmp_path}/alone/influence.zarr", queries, str(out), CONFIG)
    wide = CONFIG.model_copy(update={"probe": ProbeConfig(window=CONTEXT)})
    with pytest.raises(ConfigError, match="leave no room for a query"):
        audit(f"{folder}/influence.zarr", queries, str(out), wide)
    with pytest.raises(ConfigError, match="drown in bfloat16; leave out probe"):
        AuditConfig.parse({"probe": {}, "precision": "bf16"})
    assert not out.exists()
