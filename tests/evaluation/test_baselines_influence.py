"""Influence functions against the explicit inverse of a damped Hessian or Gauss–Newton matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy

from dist_attr.errors import ConfigError
from dist_attr.evaluation.baselines import Ekfac, InfluenceCG, InfluenceLiSSA, Trained, classifier
from tests.evaluation.small_baselines import (
    CLASSES,
    INPUTS,
    counted,
    gradients,
    logprob,
    small_classifier,
    summed,
)


def explicit_hessian(model: nn.Module, pieces: tuple[Tensor, ...]) -> Tensor:
    """Of the mean loss, (P, P)."""
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        named = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return cross_entropy(functional_call(model, named, (pieces[0],)), pieces[1])

    found: Tensor = hessian(loss)(theta)
    return found


def gauss_newton(model: nn.Module, inputs: Tensor) -> Tensor:
    """E over the inputs and the model's own labels of the loss's gradient with itself, (P, P)."""
    total = torch.zeros(())
    shares: Tensor = model(inputs).softmax(1).detach()
    for label, share in enumerate(shares.unbind(1)):
        own = gradients(model, (inputs, torch.full((len(inputs),), label)), logprob)
        total = total + (share[:, None] * own).T @ own / len(inputs)
    return total


def with_counts(trained: Trained, scores: Tensor) -> Tensor:
    """Of pieces (queries, pieces), each as often as `counted` counts it, in the mean once."""
    counts = counted(trained).examples[2][:, 0]
    return scores * counts / counts.mean()


def influence(trained: Trained, curvature: Tensor, damping: float, checkpoint: int = 0) -> Tensor:
    model = trained.at(checkpoint)
    own, asked = gradients(model, trained.examples, logprob), gradients(model, trained.queries, logprob)
    damped = curvature + damping * torch.eye(len(curvature), dtype=own.dtype)
    scores: Tensor = asked @ torch.linalg.solve(damped, own.T)
    return scores


def test_cg_solves_with_the_damped_hessian_and_averages_checkpoints() -> None:
    trained = small_classifier(checkpoints=2)
    each = [
        influence(trained, explicit_hessian(model, trained.examples), 0.5, number)
        for number, model in enumerate(trained.models())
    ]
    scores = InfluenceCG(damping=0.5, iterations=12)(trained)
    np.testing.assert_allclose(scores, summed(trained, torch.stack(each).mean(0)), rtol=1e-5, atol=1e-9)


def test_pieces_count_in_the_hessian_and_in_the_scores_as_often_as_they_were_used() -> None:
    trained = small_classifier()
    often = torch.arange(60).repeat_interleave(counted(trained).examples[2][:, 0].long())
    repeated = explicit_hessian(trained.at(0), (trained.examples[0][often], trained.examples[1][often]))
    expected = summed(trained, with_counts(trained, influence(trained, repeated, 0.5)))
    scores = InfluenceCG(damping=0.5, iterations=12)(counted(trained))
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-9)


def test_the_hessian_may_be_that_of_some_pieces() -> None:
    trained, matches = small_classifier(pieces=20), []
    each = [
        summed(trained, influence(trained, explicit_hessian(trained.at(0), rest), 0.5))
        for rest in (tuple(t[torch.arange(20) != piece] for t in trained.examples) for piece in range(20))
    ]
    for seed in (0, 1):
        scores = InfluenceCG(damping=0.5, iterations=12, fitted=19, seed=seed)(trained)
        matches.append([left for left, expected in enumerate(each) if np.allclose(scores, expected, rtol=1e-3)])
    assert [len(left) for left in matches] == [1, 1]
    assert matches[0] != matches[1]


def test_cg_says_so_when_it_went_on_after_it_had_converged() -> None:
    with pytest.raises(ConfigError, match="fewer iterations"):
        InfluenceCG(damping=0.5, iterations=500)(small_classifier())


def test_lissa_sums_the_series_of_the_damped_hessian() -> None:
    trained = small_classifier(dtype=torch.float32)
    expected = influence(trained, explicit_hessian(trained.at(0), trained.examples), 0.5)
    # All pieces in every batch: nothing is random, and the series converges as (1 − (λ + 0.5) / 4)^depth.
    scores = InfluenceLiSSA(damping=0.5, scaling=4.0, depth=100, batch=60)(trained)
    np.testing.assert_allclose(scores, summed(trained, expected), rtol=1e-3, atol=1e-3)


def test_lissa_depends_on_its_seed_and_says_when_it_diverges() -> None:
    trained = small_classifier(dtype=torch.float32)
    one, again, other = (InfluenceLiSSA(0.5, 4.0, 50, 8, seed=seed)(trained) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other, rtol=1e-3)
    with pytest.raises(ConfigError, match="larger scaling"):
        InfluenceLiSSA(0.5, 0.01, 100, 8)(trained)


def test_ekfac_is_exact_for_one_layer_and_one_input() -> None:
    """There G is a Kronecker product itself; what remains is the noise of the labels that are drawn."""
    torch.manual_seed(0)
    model, pieces = nn.Sequential(nn.Linear(INPUTS, CLASSES)), 4000
    inputs, labels = torch.randn(1, INPUTS).expand(pieces, -1), torch.arange(pieces) % CLASSES
    queries = (torch.randn(5, INPUTS), torch.arange(5) % CLASSES)
    trained = classifier(model, [model.state_dict()], (inputs, labels), queries, sources=labels)
    exact = influence(trained, gauss_newton(model, inputs[:1]), 0.05)
    np.testing.assert_allclose(Ekfac(damping=0.05)(trained), summed(trained, exact), rtol=0.1)
    dot = influence(trained, torch.zeros(15, 15), 1.0)
    # As often as pieces are counted: G of a target's mean loss is the same, and the drawn labels must not change that.
    twice = summed(trained, with_counts(trained, exact))
    np.testing.assert_allclose(Ekfac(damping=0.05)(counted(trained)), twice, rtol=0.1)
    assert not np.allclose(summed(trained, exact) / summed(trained, dot), 1 / 0.05, rtol=0.1)


def test_ekfac_is_near_the_inverse_of_each_layers_gauss_newton_matrix() -> None:
    trained, layer = small_classifier(pieces=1000, dtype=torch.float32), 20
    whole = gauss_newton(trained.at(0), trained.examples[0])
    layers = torch.block_diag(whole[:layer, :layer], whole[layer:, layer:])
    scores, expected = Ekfac(damping=0.1)(trained), summed(trained, influence(trained, layers, 0.1))
    assert np.linalg.norm(scores - expected) < 0.1 * np.linalg.norm(expected)
    damped = summed(trained, influence(trained, torch.zeros_like(whole), 0.1))
    assert np.linalg.norm(damped - expected) > np.linalg.norm(expected)


def test_ekfac_refuses_a_model_without_linear_layers() -> None:
    model = nn.Sequential(nn.BatchNorm1d(CLASSES))
    pieces = (torch.randn(4, CLASSES), torch.arange(4) % CLASSES)
    with pytest.raises(ConfigError, match="linear layers"):
        Ekfac()(classifier(model, [model.state_dict()], pieces, pieces))
