"""Probing against influence in linear regression: closed forms, simulation, probes, and the script from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scripts import icp_linear
from scripts.icp_linear import DOMAINS, Floats, Tasks, draw, loglikelihood, ridge
from scripts.icp_regression import EXACTNESS, RELIABILITY, ROWS, TRAJECTORY
from scripts.icp_transformer import InContextRegressor, Recipe, load, probe_alone, probe_left_out, save, train

RECIPE = Recipe(dimensions=3, pairs=8, noises=(0.3,), width=32, layers=2, heads=2, steps=300, learning_rate=3e-3)


def tasks(pairs: int = 7, noise: float = 0.3) -> Tasks:
    return draw(3, pairs, 3, noise, seed=0)


def trained_again(t: Tasks, task: int, weights: Floats) -> Floats:
    """log p of a task's queries after weighted ridge regression, solved by least squares with the penalty as rows."""
    roots = np.sqrt(weights)
    rows = np.concatenate([roots[:, None] * t.x[task], np.sqrt(t.penalty) * np.eye(3)])
    w = np.linalg.lstsq(rows, np.concatenate([roots * t.y[task], np.zeros(3)]))[0]
    return loglikelihood(t.answers[task], t.queries[task] @ w)


class RidgeRegressor:
    """Ridge regression in the transformer's place: it knows no order, and is known in closed form."""

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty

    def predict(self, x: Floats, y: Floats, queries: Floats) -> Floats:
        predictions: Floats = np.einsum("cqd,cd->cq", queries, ridge(x, y, self.penalty))
        return predictions


def test_leaving_out_in_closed_form_is_training_again() -> None:
    t = tasks()
    found = icp_linear.left_out(t)
    assert found.shape == (3, len(DOMAINS), 7)
    for task in range(3):
        whole = trained_again(t, task, np.ones(7))
        for left in range(7):
            without = trained_again(t, task, 1.0 - np.eye(7)[left])
            np.testing.assert_allclose(found[task, :, left], whole - without, rtol=1e-9, atol=1e-12)


def test_the_influence_function_is_the_derivative_by_a_pairs_weight() -> None:
    t, h = tasks(), 1e-4
    found = icp_linear.influence_function(t)
    for left in range(7):
        step = h * np.eye(7)[left]
        difference = (trained_again(t, 1, 1 + step) - trained_again(t, 1, 1 - step)) / (2 * h)
        np.testing.assert_allclose(found[1, :, left], difference, rtol=1e-5, atol=1e-7)


def test_the_gradient_dot_product_is_that_of_the_gradients_at_zero() -> None:
    t = tasks()

    def gradient(x: Floats, y: float) -> Floats:
        w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        (-0.5 * (y - torch.tensor(x) @ w).square()).backward()
        assert w.grad is not None
        return w.grad.numpy()

    found = icp_linear.gradient_at_zero(t)
    for domain in range(len(DOMAINS)):
        of_query = gradient(t.queries[2, domain], t.answers[2, domain])
        expected = [of_query @ gradient(x, y) for x, y in zip(t.x[2], t.y[2], strict=True)]
        np.testing.assert_allclose(found[2, domain], expected, rtol=1e-12)


# As few pairs as dimensions, so that one left out leaves a direction to the penalty; and more.
@pytest.mark.parametrize("pairs", [3, 7])
def test_simulated_descent_that_converged_is_the_closed_form(pairs: int) -> None:
    """To 1e-8 of the largest score, in float64; and not before it converged: it is descent that is simulated."""
    t = tasks(pairs).first(1)
    closed = {"trajectory": icp_linear.left_out(t), "tangent": icp_linear.influence_function(t)}
    done, begun = (icp_linear.simulate(t, accuracy).scores for accuracy in (1e-16, 0.1))
    for name, expected in closed.items():
        assert np.abs(done[name] - expected).max() < 1e-8 * np.abs(expected).max()
        assert np.abs(begun[name] - expected).max() > 1e-2 * np.abs(expected).max()


def test_the_logits_of_a_pair_are_its_gaussian_density() -> None:
    x, y, w = torch.randn(3, 5, 2, dtype=torch.float64).unbind()
    forward = icp_linear.table_forward(x, y[:, 0])
    logits = forward({"weights": w[0]}, torch.arange(5)[:, None])
    density = torch.distributions.Normal(x @ w[0], 1.0).log_prob(y[:, 0])
    torch.testing.assert_close(logits.log_softmax(-1)[:, 0, 0], density)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_probing_ridge_regression_gives_the_closed_forms(order: int) -> None:
    """Whatever the order of the context: scores come back to the pairs that they are of."""
    t = tasks()
    model = RidgeRegressor(t.penalty)
    scores, whole = probe_left_out(model, t, order)
    np.testing.assert_allclose(scores, icp_linear.left_out(t), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(whole, np.einsum("tqd,td->tq", t.queries, ridge(t.x, t.y, t.penalty)), rtol=1e-9)
    np.testing.assert_allclose(probe_alone(model, t), icp_linear.alone(t), rtol=1e-8, atol=1e-10)


def test_the_transformer_answers_from_the_pairs_before_and_from_nothing_else() -> None:
    torch.manual_seed(0)
    model = InContextRegressor(RECIPE).eval()
    x, y = torch.randn(2, 6, 3), torch.randn(2, 6)
    before = model(x, y)
    for changed in (3, 5):
        others_x, others_y = x.clone(), y.clone()
        others_y[:, changed:] += 1  # the y to be predicted, and those after it
        others_x[:, changed + 1 :] += 1
        after = model(others_x, others_y)
        torch.testing.assert_close(after[:, : changed + 1], before[:, : changed + 1])
        assert changed == 5 or (after[:, changed + 1 :] - before[:, changed + 1 :]).abs().min() > 1e-5
    # Together or one by one, after any number of pairs, the answers are the same; in another order they are not.
    queries = np.random.default_rng(0).standard_normal((2, 4, 3))
    pairs = x.double().numpy(), y.double().numpy()
    for n in (0, 1, 6):
        together = model.predict(pairs[0][:, :n], pairs[1][:, :n], queries)
        alone = [model.predict(pairs[0][i : i + 1, :n], pairs[1][i : i + 1, :n], queries[i : i + 1]) for i in (0, 1)]
        np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
    turned = model.predict(pairs[0][:, ::-1], pairs[1][:, ::-1], queries)
    assert np.abs(turned - together).max() > 1e-4


def test_training_learns_to_answer_and_is_kept_with_its_recipe(tmp_path: Path) -> None:
    steps: list[int] = []
    model = train(RECIPE, lambda: steps.append(1))
    assert len(steps) == RECIPE.steps
    t = draw(200, 8, 3, 0.3, seed=1)
    same = DOMAINS.index("same")
    error = np.mean((model.predict(t.x, t.y, t.queries)[:, same] - t.answers[:, same]) ** 2)
    assert error < 0.6 * np.mean(t.answers[:, same] ** 2)
    file = tmp_path / "transformer.safetensors"
    save(model, file)
    loaded = load(RECIPE, file)
    assert loaded is not None
    np.testing.assert_array_equal(loaded.predict(t.x, t.y, t.queries), model.predict(t.x, t.y, t.queries))
    assert load(Recipe(), file) is None and load(RECIPE, tmp_path / "none") is None


def quick(folder: Path) -> dict[str, Any]:
    figures = folder / "figures.json"
    options = ["--out", str(folder / "run"), "--json", str(figures), "--figure", str(folder / "figure.svg")]
    command = [sys.executable, "-m", "scripts.icp_regression", "--quick", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(figures.read_text())["tables"]
    return found


def test_the_script_runs_and_computes_nothing_twice(tmp_path: Path) -> None:
    found = quick(tmp_path)
    table = found["agreement_0.3"]
    assert table["columns"] == ["query", "", "4 pairs", "6 pairs", "6 pairs, top 1", "6 pairs, top 3"]
    for domain in DOMAINS:
        rows = {row[1]: [float(cell.split()[0]) for cell in row[2:]] for row in table["rows"] if row[0] == domain}
        assert tuple(rows) == ROWS
        # What was simulated to the end ranks the pairs as leaving them out does; a probe in another order does not.
        assert rows[TRAJECTORY] == rows[EXACTNESS] == [1.0] * 4
        assert max(rows[RELIABILITY][:2]) < 1.0
        assert all(-1 <= value <= 1 for row in rows.values() for value in row)
    files = sorted((tmp_path / "run").iterdir())
    assert [file.suffix for file in files] == [".npz", ".npz", ".safetensors"]
    written = [file.stat().st_mtime_ns for file in files]
    svg = (tmp_path / "figure.svg").read_bytes()
    files[0].unlink()
    again = quick(tmp_path)
    assert [file.stat().st_mtime_ns for file in files[1:]] == written[1:] and files[0].exists()
    del found["costs"], again["costs"]  # which are timed anew
    assert again == found
    assert (tmp_path / "figure.svg").read_bytes() == svg
