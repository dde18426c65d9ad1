"""Classifiers whose every example is a source: the derivative in reverse, runs of half, the digits' fidelity."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.mlp_data import Images
from scripts.mlp_reverse import checkpoints_of, path, reversed_scores
from scripts.mlp_runs import Recipe, Run, log_odds, trained_on

RECIPE = Recipe((5, 6, 3), epochs=3, batch_size=4, rate=0.1)


@pytest.fixture
def images() -> Images:
    draw = torch.Generator().manual_seed(0)
    pixels, asked = torch.randn(16, 5, generator=draw), torch.randn(4, 5, generator=draw)
    return Images(pixels, pixels[:, :3].argmax(1), asked, asked[:, :3].argmax(1))


@pytest.mark.parametrize("curvature", [1.0, 0.5])
@pytest.mark.parametrize("half", [False, True])
def test_the_derivative_in_reverse_is_the_simulators(images: Images, half: bool, curvature: float) -> None:
    run = Run(RECIPE, images, seed=1, half=half)
    chosen = [0, 3, 7, 15]
    simulated = run.read_out(run.simulated(chosen, None, curvature))
    assert np.abs(simulated).max() > 1e-3
    np.testing.assert_allclose(reversed_scores(run, curvature)[:, chosen], simulated, rtol=1e-3, atol=1e-6)


def test_it_is_the_simulators_along_the_run_that_is_given(images: Images) -> None:
    run, thetas = Run(RECIPE, images, seed=1), list[torch.Tensor]()
    simulated = run.read_out(run.simulated([2, 5], None, path=thetas))
    for one, other in zip(thetas, path(run), strict=True):
        torch.testing.assert_close(one, other)
    again = reversed_scores(run, along=thetas, queries=3)
    np.testing.assert_allclose(again[:, [2, 5]], simulated[:3], rtol=1e-3, atol=1e-6)
    elsewhere = reversed_scores(run, along=[theta + 0.1 for theta in thetas], queries=3)
    assert np.abs(elsewhere - again).max() > 1e-2


@pytest.mark.parametrize("curvature", [1.0, 0.5])
def test_that_of_a_mean_over_checkpoints_is_what_the_simulator_says_at_each(images: Images, curvature: float) -> None:
    run = Run(RECIPE, images, seed=1, half=True)
    asked, chosen = checkpoints_of(run, 3), [0, 3, 7, 15]
    assert asked == [2, 4, 6] and checkpoints_of(run, 1) == [6]
    with pytest.raises(ValueError, match="1 to 6 checkpoints, not 7"):
        checkpoints_of(run, 7)
    at_each = [run.read_out(run.simulated(chosen, None, curvature, steps=steps)) for steps in asked]
    mean = reversed_scores(run, curvature, checkpoints=3)[:, chosen]
    np.testing.assert_allclose(mean, np.mean(at_each, axis=0), rtol=1e-3, atol=1e-6)
    assert np.abs(mean - at_each[-1]).max() > 1e-3


@pytest.mark.parametrize("half", [False, True])
def test_it_is_the_central_difference_of_retraining(images: Images, half: bool) -> None:
    run, step = Run(RECIPE, images, seed=2, half=half), 2e-2
    scores = reversed_scores(run)

    def outputs(example: int, by: float) -> torch.Tensor:
        weights = run.weights.clone()
        weights[example] += by
        return log_odds(run.retrained(weights)(images.test), images.test_labels).detach().double()

    for example in (1, 8):
        difference = (outputs(example, step) - outputs(example, -step)) / (2 * step)
        np.testing.assert_allclose(scores[:, example], difference, rtol=0.05, atol=2e-3)


def test_a_run_of_half_has_seen_half(images: Images) -> None:
    run = Run(RECIPE, images, seed=3, half=True)
    assert run.weights.sum() == 8
    absent = (run.weights == 0).nonzero().squeeze(1)
    other = Images(images.train.clone(), images.train_labels, images.test, images.test_labels)
    other.train[absent] = 100.0
    same = Run(RECIPE, other, seed=3, half=True)
    assert torch.equal(
        run.step.space.read(run.retrained(run.weights)), same.step.space.read(same.retrained(same.weights))
    )
    # ... and a derivative in the weights of the others.
    assert np.abs(reversed_scores(run)[:, absent]).min() > 0


def test_retraining_never_sees_what_is_dropped(images: Images) -> None:
    kept = np.arange(0, 16, 2)
    other = Images(images.train.clone(), images.train_labels, images.test, images.test_labels)
    other.train[1::2] = 100.0
    first, second = (trained_on(RECIPE, one, kept, 0) for one in (images, other))
    assert torch.equal(first[0].weight, second[0].weight)  # type: ignore[arg-type]


def test_log_odds_are_those_of_the_label() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, -1.0], [40.0, 0.0, 0.0]]), torch.tensor([0, 0])
    p = logits.double().softmax(-1)[:, 0]
    torch.testing.assert_close(log_odds(logits, labels)[0].double(), (p / (1 - p)).log()[0])
    assert log_odds(logits, labels)[1] == pytest.approx(40 - np.log(2), abs=1e-4)


def run_script(*arguments: str, folder: Path) -> dict[str, dict[str, list[str]]]:
    """Cells by table and row."""
    file = folder / "report.json"
    command = [sys.executable, "-m", "scripts.mlp_lds", "--work", str(folder), "--json", str(file), *arguments]
    subprocess.run(command, check=True, timeout=3000)
    tables = json.loads(file.read_text(encoding="utf-8"))["tables"]
    return {name: {row[0]: row[1:] for row in table["rows"]} for name, table in tables.items()}


@pytest.mark.slow
def test_digits_are_predicted(tmp_path: Path) -> None:
    tables = run_script("--data", "digits", folder=tmp_path)
    value: Callable[[str], float] = lambda name: float(tables["lds"][name][0].split()[0])  # noqa: E731
    assert value("tangents, exact, full run") >= 0.95
    assert value("tangents, horizon 5, full run") >= 0.90
    assert value("TRAK, full run") < value("tangents, horizon 5, full run")
    assert max(float(each) for row in tables["check"].values() for each in row) < 1e-3


@pytest.mark.slow
def test_mnist_runs(tmp_path: Path) -> None:
    tables = run_script("--data", "mnist", "--quick", folder=tmp_path)
    assert {"tangents, exact, half run", "tangents, exact, half run, mean of 2", "TRAK, half run"} <= set(tables["lds"])
