"""The field: where settings are chosen and where figures are taken, the value in half the company, and the script."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from dist_attr.evaluation import noise_ceiling
from scripts.dial_benches import small_gpt
from scripts.field_ours import halves, in_company
from scripts.field_table import CEILING, Column, Setting, columns, tables

ROOT = Path(__file__).parents[2]
QUERIES = 3


def column(runs: int = 1, subsets: int = 12) -> Column:
    outputs = np.random.default_rng(0).normal(size=(runs, subsets, QUERIES))
    (found,) = columns("this run", np.full(subsets, 2), {i: outputs[:, i] for i in range(subsets)})
    return found


def setting(predicted: np.ndarray, query: float = 1.0) -> Setting:
    return Setting(predicted, query, bytes=8.0, preparation=1.0)


def test_a_setting_is_chosen_on_one_half_and_judged_on_the_other() -> None:
    truth = column()
    true, even = truth.outputs[0], np.arange(12)[:, None] % 2 == 0
    grid = {"right, then wrong": setting(np.where(even, true, -true)), "the other way": setting(-true * (2 * even - 1))}
    assert truth.chosen(grid) == "right, then wrong"
    assert truth.reported(grid["right, then wrong"]).value == -1.0
    assert truth.reported(grid["the other way"]).value == 1.0


def test_columns_have_finished_subsets_of_one_size_only() -> None:
    sizes = np.array([1] * 5 + [2] * 8)
    outputs = {i: np.full((1, QUERIES), float(i)) for i in range(13) if i != 7}
    (found,) = columns("this run", sizes, outputs)
    assert found.name == "this run, 2 dropped" and found.subsets.tolist() == [5, 6, 8, 9, 10, 11, 12]
    np.testing.assert_array_equal(found.outputs[0, :, 0], found.subsets)


def test_the_table_says_what_the_chosen_settings_cost_and_the_ceiling_of_several_runs() -> None:
    truth = column(runs=4)
    right = truth.outputs.mean(axis=0)
    methods = {
        "tuned": {"bad": setting(-right, 7.0), "good": setting(right, 3.0)},
        "plain": {"": setting(-right, 12.0)},
    }
    fidelity, grids = tables("any such run", [truth], methods, "A note.")
    ceiling = noise_ceiling(truth.outputs[:, 1::2])
    assert [row[0] for row in fidelity.rows] == [CEILING, "tuned", "plain"]
    assert fidelity.rows[0][1] == f"{ceiling:.2f}"
    assert fidelity.rows[1][1:] == ["1.00 [1.00, 1.00]", "3", "8 B", "1"]
    assert fidelity.rows[2][1:3] == ["-1.00 [-1.00, -1.00]", "12"]
    assert grids.rows == [["tuned", "bad, good", "good"]]
    assert CEILING not in [row[0] for row in tables("this run", [column()], methods, "")[0].rows]


def test_two_complementary_halves_give_the_best_linear_model_of_what_sources_do_in_pairs() -> None:
    sources, draw = 6, np.random.default_rng(1)
    alone, pairs = draw.normal(size=sources), np.triu(draw.normal(size=(sources, sources)), 1)

    def output(present: np.ndarray) -> float:
        return float(alone @ present + present @ pairs @ present)

    def worth(company: np.ndarray, source: int) -> float:
        with_it, without = company.astype(float), company.astype(float)
        with_it[source], without[source] = 1, 0
        return output(with_it) - output(without)

    found = np.mean([[worth(half, b) for b in range(sources)] for half in halves(sources, 1, seed=0)], axis=0)
    every = np.array(list(product([0.0, 1.0], repeat=sources)))
    design = np.column_stack([every, np.ones(len(every))])
    best = np.linalg.lstsq(design, np.array([output(present) for present in every]), rcond=None)[0][:-1]
    np.testing.assert_allclose(found, best, atol=1e-12)
    everyone = [worth(np.ones(sources), b) for b in range(sources)]
    assert np.abs(np.array(everyone) - best).max() > 0.1  # what leaving one out of all would say


def test_a_source_is_worth_in_company_what_retraining_with_and_without_it_says(tmp_path: Path) -> None:
    run = small_gpt(tmp_path, quick=True).at(0)
    present = np.arange(len(run.corpus.sources)) % 2 == 0
    scores = in_company(run, present)
    own = run.outputs(present.astype(float).tolist())
    for source in (0, 1):  # one that is there, one that is not
        other = present.copy()
        other[source] ^= True
        change = run.outputs(other.astype(float).tolist()) - own
        expected = -change if present[source] else change
        np.testing.assert_allclose(scores["counterfactual"][:, source], expected, atol=2e-4)
        assert np.abs(expected).max() > 2e-3
        assert np.corrcoef(scores["linear"][:, source], expected)[0, 1] > 0.9


@pytest.mark.slow
def test_the_script_measures_prints_and_goes_on(tmp_path: Path) -> None:
    report, figure = tmp_path / "field.json", tmp_path / "field.svg"
    command = [sys.executable, "-m", "scripts.field", "--work", str(tmp_path), "--quick", "--workers", "1"]
    subprocess.run([*command, "--json", str(report), "--figure", str(figure)], check=True, cwd=ROOT)
    first = json.loads(report.read_text(encoding="utf-8"))["tables"]
    shown = subprocess.run(
        [*command, "--show", "--json", str(report)], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert json.loads(report.read_text(encoding="utf-8"))["tables"] == first and "noise ceiling" in shown.stdout
    rows = {row[0]: row[1:] for row in first["this_run"]["rows"]}
    assert rows["trajectory, counterfactual"][0].startswith("1.00 [")  # a source's replica is the retrained model
    named = {"tangent, linear", "checkpoint, linear", "trajectory, group", "TRAK-1", "TRAK-4", "IF-CG", "EK-FAC"}
    named |= {"gradient dot product", "gradient cosine", "TracIn", "representation similarity", "BM25"}
    assert named <= rows.keys()
    assert any(row[0].endswith("mean of 3 runs") for row in first["any_such_run"]["rows"])
    assert figure.read_text(encoding="utf-8").count("this run") >= 1
