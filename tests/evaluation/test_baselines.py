"""What all baselines share: the contract, and the sign and sense of their scores on models that were trained again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dist_attr.errors import ConfigError
from dist_attr.evaluation.baselines import (
    GRIDS,
    Baseline,
    Ekfac,
    InfluenceCG,
    InfluenceLiSSA,
    Predictions,
    Similarity,
    TracIn,
    Trained,
    Trak,
    classifier,
)
from tests.evaluation.small_baselines import CLASSES, mean_rank_correlation, small_classifier

PIECES, QUERIES, DECAY = 30, 8, 0.05


def trained_on(inputs: Tensor, labels: Tensor, weights: Tensor) -> nn.Module:
    """A linear classifier at the minimum of its mean loss with weight decay: one and the same from any start."""
    model = nn.Sequential(nn.Linear(2, CLASSES))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        decay = sum(parameter.square().sum() for parameter in model.parameters()) * DECAY / 2
        loss = (weights * cross_entropy(model(inputs), labels, reduction="none")).sum() / len(labels) + decay
        loss.backward()
        return loss

    optimizer.step(closure)
    return model


@pytest.fixture(scope="module")
def left_out() -> tuple[Trained, np.ndarray]:
    """Three clouds of points, and what each point truly does to each query: log p with it minus log p without."""
    torch.manual_seed(3)
    labels = torch.arange(PIECES + QUERIES) % CLASSES
    points = torch.randn(PIECES + QUERIES, 2) + 1.5 * torch.tensor([[1.0, 0], [-1, 1], [-1, -1]])[labels]
    examples, queries = (points[:PIECES], labels[:PIECES]), (points[PIECES:], labels[PIECES:])

    def outputs(weights: Tensor) -> Tensor:
        return -cross_entropy(trained_on(*examples, weights)(queries[0]), queries[1], reduction="none").detach()

    whole = trained_on(*examples, torch.ones(PIECES))
    truth = [outputs(torch.ones(PIECES)) - outputs(1 - row) for row in torch.eye(PIECES)]
    return classifier(whole, [whole.state_dict()], examples, queries), torch.stack(truth, 1).double().numpy()


@pytest.mark.parametrize(
    ("baseline", "least"),
    [
        (InfluenceCG(damping=DECAY, iterations=6), 0.95),
        (InfluenceLiSSA(damping=DECAY, scaling=4.0, depth=300, batch=PIECES), 0.95),
        (Ekfac(damping=DECAY), 0.7),
        (TracIn(), 0.75),
        (TracIn(cosine=True), 0.6),
        (Trak(6), 0.5),
        (Similarity("cosine"), 0.2),
    ],
    ids=repr,
)
def test_positive_is_a_proponent(baseline: Baseline, least: float, left_out: tuple[Trained, np.ndarray]) -> None:
    trained, truth = left_out
    assert mean_rank_correlation(baseline(trained), truth) > least


def test_predictions_of_weighted_targets() -> None:
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]], dtype=torch.float64)
    p = logits[0].softmax(-1)[[0, 1], [2, 0]]
    found = Predictions(logits, torch.tensor([[2, 0]]), torch.tensor([[2.0, 1.0]], dtype=torch.float64))
    assert found.logprob.item() == pytest.approx(float(2 * p[0].log() + p[1].log()))
    assert found.margin.item() == pytest.approx(float(2 * (p[0] / (1 - p[0])).log() + (p[1] / (1 - p[1])).log()))
    assert found.probability.item() == pytest.approx(float((2 * p[0] + p[1]) / 3))
    sure = Predictions(torch.tensor([[[200.0, 0.0]]]), torch.tensor([[0]]), torch.ones(1, 1))
    assert sure.margin.item() == pytest.approx(200)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"checkpoints": [], "rates": []}, "no checkpoint"),
        (lambda t: {"rates": [1.0, 1.0]}, "1 checkpoints and 2 rates"),
        (lambda t: {"examples": (t.examples[0], t.examples[1][1:])}, "examples"),
        (lambda t: {"queries": (t.queries[0][:0], t.queries[1][:0])}, "queries"),
        (lambda t: {"sources": t.sources[1:]}, "60 pieces have 59 sources"),
        (lambda t: {"source_count": 11}, "0 to 10"),
        (lambda t: {"model": nn.Sequential(nn.Linear(4, 3)).requires_grad_(False)}, "requires_grad"),
    ],
)
def test_what_does_not_fit_is_refused(change: Callable[[Trained], dict[str, object]], message: str) -> None:
    trained = small_classifier()
    with pytest.raises(ConfigError, match=message):
        replace(trained, **change(trained))  # type: ignore[arg-type]


def test_the_model_stays_as_it_was() -> None:
    trained = small_classifier(checkpoints=2)
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    for baseline in (TracIn(), Trak(8), InfluenceCG(), Similarity()):
        baseline(trained)
    torch.testing.assert_close(trained.model.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in trained.model.parameters())


def test_every_setting_of_the_grids_has_a_name_of_its_own() -> None:
    names = [repr(baseline) for settings in GRIDS.values() for baseline in settings]
    assert len(names) == len(set(names)) >= len(GRIDS)
