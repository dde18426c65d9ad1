"""Planted facts: what is planted where, what counts as found, and the script from end to end."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import dist_attr as da
from scripts import planted_facts
from scripts.planted_facts import DECOYS, GROUPS, PARAPHRASE, VERY, asked_for
from scripts.planted_material import KINDS, Amount, Material, material
from scripts.planted_methods import MARGIN, METHODS, Scorer, measured
from scripts.report import Report
from tests.stores import GPT2, make_store

ROOT = Path(__file__).parents[2]
# Words that say nothing of a fact.
EMPTY = {"a", "all", "and", "as", "be", "by", "had", "has", "have", "in", "is", "of", "on", "that", "the", "those"}
EMPTY |= {"to", "was", "were", "when", "which"}


@pytest.fixture(scope="module")
def texts() -> Material:
    return material(Amount())


def content(text: str, *names: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - EMPTY - {name.lower() for name in names}


def test_each_fact_is_said_in_one_source_only(texts: Material) -> None:
    said = {document.source: document.text for document in texts.documents}
    assert len(said) == 16 and len(texts.facts) == 16 * len(KINDS)
    for fact in texts.facts:
        for statement in fact.statements:
            counts = {source: text.count(statement) for source, text in said.items()}
            assert counts == {**dict.fromkeys(said, 0), fact.source: Amount.times}
        mentions = {source for source, text in said.items() if fact.name in text}
        assert mentions == {fact.source, *fact.decoys} and fact.source not in fact.decoys
    assert Counter(fact.source for fact in texts.facts) == dict.fromkeys(said, len(KINDS))
    assert material(Amount()) == texts


def test_nothing_but_the_name_says_what_the_answer_is(texts: Material) -> None:
    assert len({fact.name for fact in texts.facts}) == len(texts.facts)
    for number, kind in enumerate(KINDS):
        own = [fact for fact in texts.facts if fact.kind == number]
        for wordings in (0, 1):
            answers = Counter(fact.answer for fact in own if fact.wordings == wordings)
            assert answers == dict.fromkeys(kind.answers, 1)
        assert all(fact.other in kind.answers and fact.other != fact.answer for fact in own)
        halves = Counter((fact.wordings, bool(fact.decoys)) for fact in own)
        assert halves == {(wordings, decoys): 4 for wordings in (0, 1) for decoys in (False, True)}


def test_a_paraphrase_shares_no_content_word_but_the_name(texts: Material) -> None:
    for fact in texts.facts:
        asked = fact.query(paraphrased=True)
        planted = content(" ".join(fact.statements), fact.name)
        assert not content(asked.prompt, fact.name) & planted and fact.answer.lower() in planted
        very = fact.query(paraphrased=False)
        assert f"{very.prompt}{very.completion}." == fact.statements[0] and fact.name in asked.prompt


def test_decoys_have_the_words_of_the_paraphrase_and_either_answer_first(texts: Material) -> None:
    said = {document.source: document.text for document in texts.documents}
    decoyed = [fact for fact in texts.facts if fact.decoys]
    for fact in decoyed:
        asked = fact.query(paraphrased=True)
        first: Counter[bool] = Counter()
        for turn, source in enumerate(fact.decoys):
            decoy = fact.decoy(turn)
            assert said[source].count(decoy) == 1 and len(set(fact.decoys)) == Amount.decoys
            assert len(content(asked.prompt, fact.name) & content(decoy)) >= 3 and decoy.count(fact.name) == 2
            assert f"{fact.name} {fact.answer}" not in decoy and asked.prompt not in decoy
            first[decoy.index(fact.answer) < decoy.index(fact.other)] += 1
        assert first == {True: 2, False: 2}


def test_the_planting_source_is_placed_by_its_score_and_ties_are_broken_at_random() -> None:
    scores = np.array([[3.0, 2, 1, 0], [3, 2, 1, 0], [5, 5, 1, 0], [0, 0, 0, 0]])
    found = planted_facts.placed(scores, np.array([0, 3, 1, 2]))
    np.testing.assert_allclose(found["reciprocal rank"], [1, 1 / 4, (1 + 1 / 2) / 2, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4])
    np.testing.assert_allclose(found["recall@1"], [1, 0, 1 / 2, 1 / 4])
    np.testing.assert_allclose(found["recall@3"], [1, 0, 1, 3 / 4])


def test_figures_are_of_the_right_group_and_of_facts_that_were_learnt(texts: Material) -> None:
    asked, names = asked_for(texts.facts), [document.source for document in texts.documents]
    assert Counter(each.group for each in asked) == dict.fromkeys(GROUPS, 32)
    planted = np.array([names.index(each.fact.source) for each in asked])
    hit = np.eye(16)[planted]
    known = np.arange(96) % 2 == 0
    right = {VERY: np.full(96, True), PARAPHRASE: known, DECOYS: np.full(96, False)}
    finds = np.array([right[each.group][number] for number, each in enumerate(asked)])
    found = {name: np.where(finds[:, None], hit, -hit) for name in METHODS}
    found[MARGIN] = np.where(known, 2.0, -1.0)
    rows = {(row["facts"], row["asked in"], row["method"]): row for row in planted_facts.figures(asked, found, names)}
    for method in METHODS:
        top = {key[:2]: row["recall@1"][0] for key, row in rows.items() if key[2] == method}
        assert top == {
            ("all", VERY): 1,
            ("all", PARAPHRASE): 0.5,
            ("all", DECOYS): 0,
            ("learnt", VERY): 1,
            ("learnt", PARAPHRASE): 1,
            ("learnt", DECOYS): 0,
        }
    assert rows["all", VERY, "chance"]["recall@1"] == [1 / 16]
    low, high = rows["all", PARAPHRASE, "BM25"]["recall@1"][1:]
    assert 0.2 < low < 0.5 < high < 0.8
    knowledge = planted_facts.learnt(asked, found[MARGIN])
    assert [(row["asked in"], row["learnt"], row["nats"][0]) for row in knowledge] == [(g, 0.5, 0.5) for g in GROUPS]


def test_every_method_scores_the_answer_against_the_other(tmp_path: Path) -> None:
    texts = material(Amount(sources=4, words=60, times=1, decoys=2))
    names = [document.source for document in texts.documents]
    store = make_store(tmp_path, names, settings=GPT2, context=256, documents=texts.documents)
    asked = asked_for(texts.facts)[::3]
    queries = [each.query for each in asked]
    swapped = [
        da.Query(prompt=query.prompt, completion=query.baseline, baseline=query.completion)
        for query in queries
        if query.baseline
    ]
    scorer = Scorer.of(store)
    for name, method in {**METHODS, MARGIN: Scorer.margin}.items():
        scores, turned = method(scorer, queries), method(scorer, swapped)
        assert scores.shape == ((len(queries),) if name == MARGIN else (len(queries), 4)) and np.isfinite(scores).all()
        if name not in ("in-context probing", "BM25"):  # the best passage for one is not the worst for the other
            np.testing.assert_allclose(turned, -scores, rtol=1e-3, atol=1e-4)
    dot, cosine = (METHODS[f"gradient {name}"](scorer, queries) for name in ("dot product", "cosine"))
    lengths = dot / cosine
    np.testing.assert_allclose(lengths, np.tile(lengths[0], (len(queries), 1)), rtol=1e-6)
    assert np.ptp(lengths[0]) > 0


def test_words_in_common_find_the_very_wording_and_follow_decoys(tmp_path: Path, texts: Material) -> None:
    names = [document.source for document in texts.documents]
    store = make_store(tmp_path, names, settings=GPT2, context=512, documents=texts.documents)
    passages = da.Passages.of(store, Scorer.of(store).attributor.engine.tokenizer, 160)  # a token is a byte
    asked = asked_for(texts.facts)
    scores = np.stack([passages.bm25(each.query) for each in asked])
    reciprocal = planted_facts.placed(scores, np.array([names.index(each.fact.source) for each in asked]))["recall@1"]

    def share(group: str) -> float:
        return float(reciprocal[[each.group == group for each in asked]].mean())

    assert share(VERY) > 0.9 and share(DECOYS) < 0.2


def test_scores_are_kept(tmp_path: Path) -> None:
    texts = material(Amount(sources=4, words=60, times=1, decoys=2))
    names = [document.source for document in texts.documents]
    store = make_store(tmp_path, names, settings=GPT2, context=256, documents=texts.documents)
    queries = [each.query for each in asked_for(texts.facts)[:2]]
    first = measured(store, queries)
    (tmp_path / "model").rename(tmp_path / "away")  # there is nothing left to score with
    again = measured(store, queries)
    assert list(first) == [*METHODS, MARGIN]
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])


@pytest.mark.slow
def test_the_script_runs_and_computes_nothing_twice(tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "scripts.planted_facts", "--quick", "--out", str(tmp_path / "run"), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)

    done = run("--json", str(tmp_path / "figures.json"), "--figure", str(tmp_path / "figure.svg"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    tables = Report.model_validate_json((tmp_path / "figures.json").read_bytes()).tables
    assert {name: len(table.rows) for name, table in tables.items()} == {
        "model": len(GROUPS),
        **dict.fromkeys(["learnt", "all"], len(GROUPS) * (len(METHODS) + 1)),
    }
    assert (tmp_path / "figure.svg").stat().st_size > 0
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.is_file()}
    again = run("--json", str(tmp_path / "again.json"))
    assert again.returncode == 0
    assert Report.model_validate_json((tmp_path / "again.json").read_bytes()).tables == tables
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.is_file()} == written
