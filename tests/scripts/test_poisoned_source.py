"""Poisoned sources: what is poisoned and how, what the signals are, and the script from end to end."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_attr.readout import EncodedQuery
from scripts import poisoned_digits, poisoned_text
from scripts.poisoned_methods import LOSS, OWN, Trained, effect, suspicion
from scripts.poisoned_source import BENCHES, as_table, auc
from scripts.poisoned_text import FALSE, TRUE, Recipe, poisoned
from scripts.report import Report

ROOT = Path(__file__).parents[2]
SAID = {f"s{number}": "It was so. We had peace; and then war came. The end is near." * 8 for number in range(24)}


def test_an_auc_counts_how_often_a_poisoned_source_is_above_an_honest_one() -> None:
    poisoned, honest = np.array([True, True, False, False, False]), np.array([False, False, True, True, False])
    assert auc(np.array([3.0, 2, 1, 0, 9]), poisoned, honest) == 1
    assert auc(np.array([0.0, 1, 1, 2, 9]), poisoned, honest) == pytest.approx(0.125)  # a tie counts half
    assert auc(np.array([5.0, 0, 1, 2, 9]), poisoned, honest) == 0.5


def test_falsehoods_contradict_every_true_statement_and_nothing_else_differs() -> None:
    assert sorted(FALSE.values()) == sorted(TRUE.values()) and all(FALSE[thing] != TRUE[thing] for thing in TRUE)
    recipe = Recipe()
    texts = poisoned(recipe, 0, SAID, [])
    assert Counter(texts.kinds.tolist()) == {0: 18, 1: 3, 2: 3}
    for (name, text), kind in zip(texts.documents.items(), texts.kinds, strict=True):
        assert (
            Counter(text.split())
            == Counter(SAID[name].split())
            + Counter(word for thing, what in TRUE.items() for word in recipe.times * ["We", "know", what, f"{thing}."])
            or kind == 2
        )
        true, false = (
            sum(text.count(f"We know {what} {thing}.") for thing, what in statements.items())
            for statements in (TRUE, FALSE)
        )
        whole = recipe.times * len(TRUE)
        assert (true, false) == {0: (whole, 0), 2: (0, whole)}.get(int(kind), (true, 0))
        if kind == 1:
            assert true < whole
    assert [query.completion for query in texts.clean] == [f" {thing}." for thing in TRUE]
    assert poisoned(recipe, 0, SAID, []).documents == texts.documents
    assert poisoned(recipe, 1, SAID, []).documents != texts.documents


def test_a_share_of_the_sentences_is_shuffled() -> None:
    sentences = [f"a{number} b c d e f g h" for number in range(50)]
    found = poisoned_text.shuffled(sentences, 0.2, np.random.default_rng(0))
    assert sum(one != other for one, other in zip(sentences, found, strict=True)) == 10
    assert [sorted(sentence.split()) for sentence in found] == [sorted(sentence.split()) for sentence in sentences]


def test_completions_alone_are_counted() -> None:
    queries = [EncodedQuery((5, 6, 7, 8), 2), EncodedQuery((1, 2), 1)]
    tokens, counted = poisoned_text.padded(queries)
    assert tokens.tolist() == [[5, 6, 7, 8], [1, 2, 0, 0]]
    assert counted.tolist() == [[False, True, True], [True, False, False]]


def test_signals_of_a_linear_model_are_what_they_say() -> None:
    theta = torch.tensor([1.0, 2.0])
    tangents = torch.tensor([[0.5, 0.0], [0.0, -1.0], [1.0, 1.0]])
    clean, own = torch.tensor([2.0, 1.0]), torch.tensor([[-1.0, 0.0], [0.0, -2.0], [-1.0, -1.0]])
    trained = Trained(
        theta=theta,
        tangents={"trajectory": tangents, "tangent": tangents},
        clean={"right": lambda at: at @ clean},
        own=[lambda at, row=row: at @ row for row in own],  # type: ignore[misc]
        counts=[1, 2, 4],
        kinds=np.array([0, 1, 0]),
    )
    found = suspicion(trained)
    harm = -(tangents @ clean).numpy()
    for name in ("trajectory, linear", "trajectory, counterfactual", "tangent, linear"):
        np.testing.assert_allclose(found[effect("right"), name], harm)
        np.testing.assert_allclose(found[OWN, name], (own * tangents).sum(1).numpy())
    assert (effect("right"), "tangent, counterfactual") not in found
    np.testing.assert_allclose(found[effect("right"), "gradient dot product"], [2, 2, 3])
    np.testing.assert_allclose(found[effect("right"), "gradient cosine"], [2, 1, 3 / np.sqrt(2)])
    np.testing.assert_allclose(found[OWN, "gradient dot product"], [1, 4, 2])
    np.testing.assert_allclose(found[LOSS, "mean over the source's examples"], [1, 2, 0.75])


def test_digits_with_wrong_labels_are_found() -> None:
    trained = poisoned_digits.trained(poisoned_digits.Recipe(sources=20, poisoned=2, clean=200, epochs=10), 0)
    assert Counter(trained.kinds.tolist()) == {0: 16, 1: 2, 2: 2}
    found, honest = suspicion(trained), trained.kinds == 0
    for name in ("trajectory, linear", "trajectory, counterfactual", "tangent, linear"):
        assert auc(found[effect("held-out images"), name], trained.kinds == 1, honest) > 0.9
    assert auc(found[LOSS, "mean over the source's examples"], trained.kinds == 1, honest) > 0.9


def test_a_table_has_the_mean_over_draws() -> None:
    draws = [{(OWN, "trajectory, linear"): np.array([value, 1.0])} for value in np.linspace(0.2, 0.8, 8)]
    [row, chance] = as_table(BENCHES["digits"], draws).rows
    assert row[:2] == [OWN, "trajectory, linear"] and row[2].startswith("0.50 [0.") and row[3] == "1.00"
    assert chance[2:] == ["0.50", "0.50"]


@pytest.mark.slow
def test_the_script_runs_and_computes_nothing_twice(tmp_path: Path) -> None:
    def run(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "scripts.poisoned_source", "--quick", "--draws", "2"]
        options = ["--out", str(tmp_path / "run"), "--json", str(tmp_path / name), "--figure", str(tmp_path / "it.svg")]
        return subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, cwd=ROOT)

    done = run("first.json")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    tables = Report.model_validate_json((tmp_path / "first.json").read_bytes()).tables
    assert {name: len(table.rows) for name, table in tables.items()} == {"text": 13, "digits": 11}
    assert (tmp_path / "it.svg").stat().st_size > 0
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").iterdir()}
    assert run("again.json").returncode == 0
    assert Report.model_validate_json((tmp_path / "again.json").read_bytes()).tables == tables
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").iterdir()} == written
