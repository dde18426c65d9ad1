"""Comparing influence with in-context probing, as a user types it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner, Result

import dist_attr as da
from dist_attr.cli import app
from dist_attr.config import ProbeConfig
from dist_attr.corpus import Document
from dist_attr.errors import DistAttrError
from dist_attr.probing import (
    CompareOptions,
    Comparison,
    Measurements,
    Passages,
    Prober,
    by_source,
    finished_in,
    measure,
    read_questions,
)
from tests.stores import make_store

SOURCES = ["ant", "bee", "<b>cow</b>", "dog"]
WORDS = ["state", "union", "fear", "peace", "war", "people", "house", "law", "money", "labor"]
SHORT = ("--template", "{document} {prompt}")
QUERIES = 20


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def told(result: Result) -> str:
    """What the user is told of an error."""
    text = str(result.exception) if isinstance(result.exception, DistAttrError) else result.stderr.replace("│", " ")
    return " ".join(text.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its documents, and questions of two groups."""
    folder, draw = tmp_path_factory.mktemp("compare"), np.random.default_rng(0)
    documents = [
        Document(f"{source}-{n}", " ".join(draw.choice(WORDS, 9 + 2 * n)), source, {})
        for source in SOURCES
        for n in range(4)
    ]
    make_store(folder, SOURCES, context=128, documents=documents)
    rows = [
        {"prompt": f"the {draw.choice(WORDS)}", "completion": f" of {draw.choice(WORDS)}", "group": f"g{n % 2}"}
        for n in range(QUERIES)
    ]
    rows[3]["id"] = "third & last"
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def compared(folder: Path) -> Path:
    """The folder of a finished comparison."""
    out = folder / "compared"
    result = invoke(
        "compare", f"{folder}/influence.zarr", "--queries", f"{folder}/questions.jsonl", "--out", f"{out}",
        "--documents", "2", "--window", "40", *SHORT,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert said.startswith("Influence and in-context probing rank 4 sources alike with Spearman's correlation")
    assert "mean of 20 queries" in said and "g0 g1" in said and f"the page is {out}/comparison.html" in said
    assert "ETA" in result.stderr
    return out


def test_the_tables_hold_what_both_methods_say_by_themselves(folder: Path, compared: Path) -> None:
    store, questions = da.open_store(f"{folder}/influence.zarr"), read_questions(f"{folder}/questions.jsonl")
    config = ProbeConfig(documents=2, window=40, template="{document} {prompt}")
    attributor = da.Attributor(store)
    prober = Prober.of(store, config)
    passages = Passages.of(store, prober.tokenizer, prober.window)
    probes = prober.probe(questions, [passages.choose(question, config) for question in questions])
    scores = pq.read_table(compared / "scores.parquet")
    assert scores["query"].to_pylist() == [question.id for question in questions for _ in SOURCES]
    assert questions[3].id == "third & last" and questions[4].id == "4"
    assert scores["source"].to_pylist() == SOURCES * QUERIES
    np.testing.assert_allclose(scores["influence"], attributor.attribute(questions).scores.ravel(), atol=1e-5)
    summed = [each for probe in probes for each in by_source(probe, SOURCES)]
    for name in ("mean", "median", "best"):
        np.testing.assert_allclose(scores[f"icp_{name}"], [getattr(each, name) for each in summed], atol=1e-5)
    np.testing.assert_allclose(scores["bm25"], np.concatenate([passages.bm25(question) for question in questions]))
    documents = pq.read_table(compared / "documents.parquet")
    given = [passage for probe in probes for passage in probe.passages]
    assert documents["document"].to_pylist() == [passage.document for passage in given]
    assert documents["source"].to_pylist() == [passage.source for passage in given]
    assert documents["window"].to_pylist() == [passage.window for passage in given]
    assert max(documents["windows"].to_pylist()) > 1
    np.testing.assert_allclose(documents["icp"], np.concatenate([probe.scores for probe in probes]), atol=1e-5)
    tokens = [np.mean([len(p.tokens) for p in probe.passages if p.source == s]) for probe in probes for s in SOURCES]
    np.testing.assert_allclose(scores["tokens"], tokens)


def test_the_figures_follow_from_the_tables(compared: Path) -> None:
    found = Comparison.model_validate_json((compared / "comparison.json").read_text())
    scores = pq.read_table(compared / "scores.parquet")
    influence, probing = (np.array(scores[name]).reshape(QUERIES, -1) for name in ("influence", "icp_mean"))
    for query, a, b in zip(found.agreement.per_query, influence, probing, strict=True):
        assert query.spearman == pytest.approx(spearmanr(a, b).statistic)
    assert [cohort.group for cohort in found.agreement.groups] == ["g0", "g1"]
    assert [source.golden for source in found.sources] == pytest.approx((probing > 0).mean(0))
    assert found.agreement.overall.golden.spearman.value == pytest.approx(
        spearmanr(influence.mean(0), (probing > 0).mean(0)).statistic
    )
    assert np.sum(found.ranks) == QUERIES * 4 and np.trace(found.ranks) == sum(
        (np.argsort(np.argsort(-a)) == np.argsort(np.argsort(-b))).sum()
        for a, b in zip(influence, probing, strict=True)
    )
    documents = pq.read_table(compared / "documents.parquet")
    strongest = np.abs(np.array(documents["icp"])).argmax()
    assert found.documents[0].document == documents["document"][strongest].as_py()
    assert found.documents[0].score == pytest.approx(documents["icp"][strongest].as_py())
    assert found.influence_cost.readings == 4 and found.probing_cost.readings == 9
    assert found.influence_cost.seconds > 0 and found.probing_cost.seconds > 0
    assert found.window == 40 and found.corpus == da.open_store(found.store).manifest.corpus


def test_the_page_needs_nothing_else_and_shows_texts_as_texts(compared: Path) -> None:
    page = (compared / "comparison.html").read_text("utf-8")
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    for forbidden in ("http:", "https:", "src=", "<script", "@import", "url(", "<b>cow</b>", "None", "nan"):
        assert forbidden not in page, forbidden
    for shown in ("&lt;b&gt;cow&lt;/b&gt;", "third &amp; last", "top 1 of 4", "25 %", "dist-attr compare", "g1"):
        assert shown in page, shown
    assert page.count('class="cell"') == 16 and page.count('<circle class="dot"') > 4
    assert page.count("<circle cx") == 2 * len(SOURCES) and page.count('class="name"') > len(SOURCES)


def test_its_own_command_makes_the_same_again(compared: Path, tmp_path: Path) -> None:
    found = json.loads((compared / "comparison.json").read_text())
    words = shlex.split(found["command"])
    assert words[:2] == ["dist-attr", "compare"] and "--readout" not in words
    words[words.index("--out") + 1] = f"{tmp_path}/again"
    again = invoke(*words[1:], "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["agreement"] == found["agreement"]
    for name in ("scores.parquet", "documents.parquet"):
        assert pq.read_table(compared / name).equals(pq.read_table(tmp_path / "again" / name))


def test_what_was_finished_before_an_interruption_is_not_measured_again(folder: Path, tmp_path: Path) -> None:
    store, questions = da.open_store(f"{folder}/influence.zarr"), read_questions(f"{folder}/questions.jsonl")
    options = CompareOptions(probe=ProbeConfig(documents=1, choose="random", template="{document} {prompt}"))
    kept = finished_in(tmp_path, store, questions, options)
    seen: list[int] = []

    def interrupted(what: str, done: int, of: int) -> None:
        seen.append(done)
        if done > 0.9 * of:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(store, questions, options, folder=kept, progress=interrupted)
    finished = sorted(kept.iterdir())
    assert [file.name for file in finished] == ["queries-000000.parquet"]
    # What is kept is taken as it is: a mark that is put into it comes back.
    table = pq.read_table(finished[0])
    marked = table.set_column(table.column_names.index("logprob"), "logprob", pa.array([-7.25] * table.num_rows))
    pq.write_table(marked, finished[0])
    whole = measure(store, questions, options)
    again = measure(store, questions, options, folder=kept)
    assert [row.logprob for row in again.rows[:16]] == [-7.25] * 16
    assert [row.logprob for row in again.rows[16:]] == [row.logprob for row in whole.rows[16:]]
    for name in ("influence", "mean", "median", "best", "bm25", "tokens"):
        np.testing.assert_allclose(again.stacked(name), whole.stacked(name), atol=1e-5)
    assert [row.passage_document for row in again.rows] == [row.passage_document for row in whole.rows]
    assert isinstance(again, Measurements) and seen == sorted(seen)
    others = options.model_copy(update={"readout": "counterfactual"}), options.model_copy(update={"rank": 2})
    places = {finished_in(tmp_path, store, questions[:n], each) for n in (19, 20) for each in (options, *others)}
    assert len(places) == 6 and kept in places


def test_only_a_group_and_few_queries(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "questions.jsonl").read_text().splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(lines[:3]))
    result = invoke(
        "compare", f"{folder}/influence.zarr", "--queries", f"{tmp_path}/few.jsonl", "--out", f"{tmp_path}/out",
        "--group", "g1", "--readout", "counterfactual", *SHORT,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "mean of 1 query: too few queries" in " ".join(result.stdout.split())
    found = Comparison.model_validate_json((tmp_path / "out" / "comparison.json").read_text())
    assert [query.id for query in found.queries] == ["1"] and found.options.readout == "counterfactual"
    assert found.window == 63 and found.agreement.overall.spearman.interval is None
    assert "there are none for fewer than 8 queries" in (tmp_path / "out" / "comparison.html").read_text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "comparison.html",
        "comparison.json",
        "documents.parquet",
        "scores.parquet",
    ]


def test_a_finished_comparison_is_not_overwritten(folder: Path, compared: Path) -> None:
    before = (compared / "comparison.json").read_bytes()
    arguments = (
        "compare",
        f"{folder}/influence.zarr",
        "--queries",
        f"{folder}/questions.jsonl",
        "--out",
        f"{compared}",
    )
    refused = invoke(*arguments)
    assert refused.exit_code == 1 and "holds a finished comparison" in told(refused)
    assert (compared / "comparison.json").read_bytes() == before


@pytest.mark.parametrize(
    ("questions", "arguments", "message"),
    [
        (None, [], "none.jsonl does not exist; check --queries"),
        ("", [], "holds no queries"),
        ('{"completion": "x", "group": "a"}', ["--group", "b"], "no query of the group 'b'; its groups are: 'a'"),
        ('{"completion": "x"}', ["--group", "b"], "its groups are: none"),
        ('{"prompt": "x"}', [], "line 1: completion: Field required"),
        ('{"completion": "x", "id": 1}\n{"completion": "y", "id": "1"}', [], "queries 0 and 1"),
        ('{"completion": "x", "baseline": "y"}', [], "does not compare with a baseline"),
        ('{"completion": ""}', [], "the completion is empty"),
        ('{"completion": "' + "x" * 70 + '"}', SHORT, "do not fit the model's context of 128 tokens"),
        ('{"completion": "x"}', ["--template", "{prompt}"], "a template holds {document} once"),
        ('{"completion": "x"}', ["--rank", "2"], "has no readout basis"),
        ('{"completion": "x"}', ["--corpus", "{0}/changed.jsonl"], "they were changed since"),
        ('{"completion": "x"}', ["--corpus", "{0}/gone.jsonl"], "cannot be used: {0}/gone.jsonl does not exist"),
    ],
)
def test_errors(questions: str | None, arguments: list[str], message: str, folder: Path, tmp_path: Path) -> None:
    changed = (folder / "documents.jsonl").read_text().replace("fear", "hope")
    (tmp_path / "changed.jsonl").write_text(changed)
    if questions is not None:
        (tmp_path / "none.jsonl").write_text(questions)
    result = invoke(
        "compare", f"{folder}/influence.zarr", "--queries", f"{tmp_path}/none.jsonl", "--out", f"{tmp_path}/out",
        *[argument.replace("{0}", str(tmp_path)) for argument in arguments],
    )  # fmt: skip
    assert result.exit_code == 1 and result.stdout == ""
    assert message.replace("{0}", str(tmp_path)) in told(result)
    assert not (tmp_path / "out").exists()


def test_a_single_source_has_no_ranking(folder: Path, tmp_path: Path) -> None:
    documents = [Document(source, "peace", source, {}) for source in ("ant", "bee")]
    make_store(tmp_path, ["ant"], context=128, documents=documents)
    result = invoke(
        "compare", f"{tmp_path}/influence.zarr", "--queries", f"{folder}/questions.jsonl", "--out", f"{tmp_path}/out"
    )
    assert result.exit_code == 1 and "has the source 'ant' only" in told(result)
