"""TracIn, TRAK and similarity against the same in a few lines of torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from dattri.func.projection import random_project
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from dist_attr.errors import ConfigError
from dist_attr.evaluation.baselines import Similarity, TracIn, Trained, Trak, library
from tests.evaluation.small_baselines import gradients, logprob, margin, small_classifier, summed


@pytest.mark.parametrize("cosine", [False, True])
def test_tracin_adds_up_products_of_gradients_along_the_run(cosine: bool) -> None:
    trained = replace(small_classifier(checkpoints=2), rates=[0.5, 0.125])
    expected = torch.zeros(())
    for model, rate in zip(trained.models(), trained.rates, strict=True):
        own, asked = gradients(model, trained.examples, logprob), gradients(model, trained.queries, logprob)
        expected = expected + rate * (normalize(asked) @ normalize(own).T if cosine else asked @ own.T)
    np.testing.assert_allclose(TracIn(cosine)(trained), summed(trained, expected), rtol=1e-5)


def projected(trained: Trained, dimension: int, checkpoint: int) -> Tensor:
    """The matrix that dattri projects with at a checkpoint, (P, dimension)."""
    identity = torch.eye(trained.parameter_count, dtype=torch.float64)
    project = random_project(identity, len(identity), dimension, 32, 0, "normal", device="cpu")
    matrix: Tensor = project(identity, ensemble_id=checkpoint)
    return matrix


@pytest.mark.parametrize("checkpoints", [1, 3])
def test_trak_is_the_regression_on_projected_gradients_averaged_over_checkpoints(checkpoints: int) -> None:
    trained, regressions, doubts = small_classifier(checkpoints), [], []
    for number, model in enumerate(trained.models()):
        matrix = projected(trained, 16, number)
        own, asked = gradients(model, trained.examples, margin), gradients(model, trained.queries, logprob)
        regressions.append(asked @ matrix @ torch.linalg.inv(matrix.T @ own.T @ own @ matrix) @ matrix.T @ own.T)
        chosen = model(trained.examples[0]).softmax(1).gather(1, trained.examples[1][:, None])
        doubts.append(1 - chosen[:, 0].detach())
    expected = torch.stack(regressions).mean(0) * torch.stack(doubts).mean(0)
    np.testing.assert_allclose(Trak(16)(trained), summed(trained, expected), rtol=1e-6)


def test_one_librarys_settings_do_not_leak_into_another_call() -> None:
    trained = small_classifier()
    before = TracIn()(trained)
    Trak(16)(trained)
    np.testing.assert_array_equal(TracIn()(trained), before)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = small_classifier()
    whole = [baseline(trained) for baseline in (TracIn(), Trak(16))]
    monkeypatch.setattr(library, "HELD", 7 * trained.parameter_count)
    parts = [baseline(trained) for baseline in (TracIn(), Trak(16))]
    np.testing.assert_allclose(parts, whole, rtol=1e-6)


def test_trak_refuses_a_kernel_without_an_inverse() -> None:
    with pytest.raises(ConfigError, match="at most 60"):
        Trak(61)(small_classifier())


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_similarity_is_that_of_the_last_layers_input(metric: str) -> None:
    trained = small_classifier(checkpoints=2)
    expected = []
    for model in trained.models():
        asked, own = (model[:2](pieces[0]) for pieces in (trained.queries, trained.examples))  # type: ignore[index]
        dot = asked @ own.T
        expected.append(cosine_similarity(asked[:, None], own[None], dim=2) if metric == "cosine" else dot)
    scores = Similarity(metric)(trained)  # type: ignore[arg-type]
    np.testing.assert_allclose(scores, summed(trained, torch.stack(expected).mean(0).detach()), rtol=1e-9)
