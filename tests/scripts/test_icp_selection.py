"""Choosing what to train on: texts that overlap nowhere, choices that follow scores, and the script from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dist_attr as da
from dist_attr.evaluation import completion_logprobs
from scripts.icp_material import DOMAINS, QUICK, base_model, material
from scripts.icp_selection import BM25, GOLDEN, METHODS, PROBING, RANDOM, Bench, Choice, ways

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("selection")
    texts = material(QUICK)
    base = base_model(QUICK, texts, folder / "base", lambda n, of: None)
    return Bench(QUICK, texts, DOMAINS[2], within=False, base=base, folder=folder)


def test_no_piece_has_two_uses_and_none_was_trained_on() -> None:
    texts = material(QUICK)
    assert [document.id for document in texts.pretraining] == list(DOMAINS)
    per_domain = Counter(document.metadata["domain"] for document in texts.candidates)
    assert per_domain == dict.fromkeys(DOMAINS, QUICK.candidates_each)
    for trained, domain in zip(texts.pretraining, DOMAINS, strict=True):
        queries = [*texts.asked[domain], *texts.judged[domain]]
        assert (len(texts.asked[domain]), len(texts.judged[domain])) == (QUICK.asked, QUICK.judged)
        pieces = [query.prompt + query.completion for query in queries]
        pieces += [document.text for document in texts.candidates if document.metadata["domain"] == domain]
        assert len(set(pieces)) == len(pieces)
        assert all(len(piece.split()) == QUICK.words and piece not in trained.text for piece in pieces)
    assert material(QUICK) == texts


def test_the_best_and_the_worst_are_at_the_ends_of_the_scores(bench: Bench) -> None:
    for method in (PROBING, GOLDEN, BM25):
        scores = bench.scores(method)
        assert scores.shape == (len(bench.candidates),) and np.isfinite(scores).all() and np.ptp(scores) > 0
        best, worst = (bench.chosen(Choice(method, end, 0)) for end in ("best", "worst"))
        assert not set(best) & set(worst) and len(set(best)) == QUICK.chosen
        others = np.delete(scores, best)
        assert scores[best].min() >= others.max() and scores[worst].max() <= np.delete(scores, worst).min()
    assert ((bench.scores(GOLDEN) >= 0) & (bench.scores(GOLDEN) <= 1)).all()
    drawn = [bench.chosen(Choice(RANDOM, "any", seed)) for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_words_that_are_shared_are_what_bm25_finds(bench: Bench, tmp_path: Path) -> None:
    words = bench.candidates[7].text.split()
    asked = {bench.target: [da.Query(prompt=" ".join(words[:4]), completion=" " + " ".join(words[4:]))]}
    like_one = replace(bench, texts=replace(bench.texts, asked=asked), folder=tmp_path)
    assert like_one.chosen(Choice(BM25, "best", 0))[0] == 7 != bench.chosen(Choice(BM25, "best", 0))[0]


def test_losses_are_of_the_model_that_was_fine_tuned(bench: Bench) -> None:
    from dist_attr.models import load_model

    before = bench.losses(None)
    judged = bench.encoded(bench.texts.judged[bench.target])
    plain = completion_logprobs(load_model(str(bench.base)), judged)
    np.testing.assert_allclose(before, [-p / len(q.completion) for p, q in zip(plain, judged, strict=True)])
    after = [bench.losses(Choice(RANDOM, "any", seed)) for seed in (0, 1)]
    assert np.abs(after[0] - before).min() > 0 and np.abs(after[0] - after[1]).max() > 0


def test_candidates_within_the_domain_are_of_no_other(bench: Bench) -> None:
    within = replace(bench, within=True).candidates
    assert {document.metadata["domain"] for document in within} == {DOMAINS[2]} and len(within) == QUICK.candidates_each


def test_the_script_runs_computes_nothing_twice_and_keeps_experiments_apart(tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "scripts.icp_selection", "--quick", "--out", str(tmp_path / "run"), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)

    figures = tmp_path / "figures.json"
    done = run("--json", str(figures), "--figure", str(tmp_path / "figure.svg"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = json.loads(figures.read_text())["tables"]["gains"]["rows"]
    assert [(row[0], row[1]) for row in rows] == ways() and len(rows) == 2 * len(METHODS) + 1
    for row in rows:
        gain, low, high = (float(part) for part in row[3].replace("[", "").replace("]", "").replace(",", "").split())
        assert low <= gain <= high
    assert rows[-1][4].startswith("+0.0000") and (tmp_path / "figure.svg").stat().st_size > 0
    assert all((row[5] != "") == (row[1] == "best") for row in rows)
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.is_file()}
    again = run("--json", str(figures))
    assert again.returncode == 0 and json.loads(figures.read_text())["tables"]["gains"]["rows"] == rows
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.is_file()} == written
    other = run("--within")
    assert other.returncode != 0 and "another folder" in " ".join(other.stderr.split())
