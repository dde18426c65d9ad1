"""Law 6: the forward-mode score is the gradient's inner product, however the tokens are batched and padded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dist_attr.influence import (
    Sequences,
    central_difference_logprobs,
    counterfactual_logprobs,
    directional_logprobs,
)
from dist_attr.models import causal_forward
from tests.runs import LENGTH, MODELS, VOCABULARY, Run, small_run


def tokens_and_directions(run: Run, sequences: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, VOCABULARY, (sequences, LENGTH), generator=generator)
    return tokens, torch.randn(4, run.step.space.size, dtype=torch.float64, generator=generator)


def sequences(run: Run, tokens: Tensor) -> Sequences:
    return Sequences(run.step.forward, run.step.space, run.theta, tokens)


def linear(run: Run, tokens: Tensor, directions: Tensor, per_pass: int = 8) -> Tensor:
    return directional_logprobs(sequences(run, tokens), torch.split(directions, per_pass)).scores


@pytest.mark.parametrize("model", MODELS)
def test_forward_score_is_the_backward_inner_product(model: str) -> None:
    run = small_run(model)
    tokens, directions = tokens_and_directions(run)
    scores = linear(run, tokens, directions)
    for row in range(len(tokens)):
        for position in (0, LENGTH - 2):
            theta = run.theta.clone().requires_grad_()
            logprob = sequences(run, tokens).logprobs(theta)[row, position]
            (gradient,) = torch.autograd.grad(logprob, theta)
            torch.testing.assert_close(scores[:, row, position], directions @ gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("float64_inside")
@pytest.mark.parametrize("model", MODELS)
def test_forward_score_is_the_central_difference(model: str) -> None:
    run = small_run(model)
    tokens, directions = tokens_and_directions(run)
    scores, r = linear(run, tokens, directions), 1e-6
    for row, direction in enumerate(directions):
        up, down = (sequences(run, tokens).logprobs(run.theta + sign * r * direction) for sign in (1, -1))
        torch.testing.assert_close(scores[row], (up - down).detach() / (2 * r), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("model", MODELS)
def test_central_differences_in_float32_are_the_derivative_to_a_thousandth(model: str) -> None:
    run = small_run(model, dtype=torch.float32)
    tokens, directions = tokens_and_directions(run)
    directions = directions.float() * torch.tensor([[1e-6], [1e-2], [1.0], [1e3]])  # of any length
    directions[2] = 0.0
    scores = linear(run, tokens, directions)
    other = central_difference_logprobs(sequences(run, tokens), torch.split(directions, 3)).scores
    largest = scores.abs().amax(dim=(1, 2), keepdim=True)
    assert ((other - scores).abs() <= 2e-3 * largest).all()


@pytest.mark.parametrize("model", MODELS)
def test_positions_that_do_not_count_are_left_out(model: str) -> None:
    run = small_run(model)
    tokens, directions = tokens_and_directions(run)
    whole = linear(run, tokens, directions)
    late = Sequences(causal_forward(run.model, 4), run.step.space, run.theta, tokens, first=4)
    for readout in (directional_logprobs, counterfactual_logprobs):
        assert readout(late, [directions]).scores.shape == (4, 3, LENGTH - 5)
    torch.testing.assert_close(directional_logprobs(late, [directions]).scores, whole[..., 4:])


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_counterfactual_is_the_difference_of_two_models(model: str, stacked: bool) -> None:
    run = small_run(model)
    tokens, directions = tokens_and_directions(run)
    directions = 0.01 * directions
    result = counterfactual_logprobs(sequences(run, tokens), torch.split(directions, 3), stacked=stacked)
    for row, direction in enumerate(directions):
        run.step.space.write(run.model, run.theta - direction)
        logits = run.model(input_ids=tokens).logits
        other = logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
        torch.testing.assert_close(result.scores[row], result.logprobs - other.detach(), rtol=1e-6, atol=1e-7)


def test_batching_padding_and_order_change_no_score() -> None:
    run = small_run()
    tokens, directions = tokens_and_directions(run, sequences=4)
    whole = linear(run, tokens, directions)
    torch.testing.assert_close(linear(run, tokens[[2, 0, 3, 1]], directions), whole[:, [2, 0, 3, 1]])
    torch.testing.assert_close(linear(run, tokens, directions, per_pass=1), whole)
    for row in range(4):
        short = tokens[row : row + 1, : LENGTH - 3]
        padded = torch.cat([short, torch.full((1, 3), 7)], dim=1)
        alone = linear(run, short, directions)
        torch.testing.assert_close(alone, whole[:, row : row + 1, : LENGTH - 4])
        torch.testing.assert_close(linear(run, padded, directions)[..., : LENGTH - 4], alone)


def test_own_mask_is_the_models_own() -> None:
    for model in MODELS:
        run = small_run(model)
        tokens, _ = tokens_and_directions(run)
        ours = run.step.forward(run.step.space.unflatten(run.theta), tokens)
        torch.testing.assert_close(ours, run.model(input_ids=tokens).logits)
