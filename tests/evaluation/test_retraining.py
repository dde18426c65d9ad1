"""The plain torch training against the functional training step: two ways to write the same run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dist_attr.config import TrainingConfig
from dist_attr.corpus import PackedCorpus, batch_schedule
from dist_attr.evaluation import completion_logprobs, make_optimizer, retrain
from dist_attr.influence import SGD, Adam, Batch, LearningRate, Optimizer, ParameterSpace, Sequences, TrainingStep
from dist_attr.models import causal_forward
from dist_attr.readout import EncodedQuery
from dist_attr.simulation.recipe import weight_decay
from tests.runs import LENGTH, small_model

WEIGHTS = [1.0, 0.0, 0.5, 2.0]
ADAM: dict[str, Any] = {"betas": (0.8, 0.95), "eps": 1e-6}
COMMON: dict[str, Any] = {"steps": 7, "batch_size": 4, "sequence_length": LENGTH, "seed": 3}


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.05}, SGD()),
        (
            {"optimizer": "sgd", "learning_rate": 0.2, "momentum": 0.9, "gradient_clipping": 0.3, "warmup_steps": 2},
            SGD(momentum=0.9),
        ),
        (
            {"optimizer": "sgd", "learning_rate": 0.2, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
            SGD(momentum=0.9, nesterov=True),
        ),
        ({"learning_rate": 0.01, "eps_root": 0.0, "weight_decay": 0.2, **ADAM}, Adam(**ADAM)),
        (
            {"learning_rate": 0.01, "eps_root": 1e-6, "schedule": "cosine", "gradient_clipping": 0.3, **ADAM},
            Adam(eps_root=1e-6, **ADAM),
        ),
        ({"learning_rate": 0.01, "gradient_clipping": 0.0, "schedule": "linear"}, Adam(eps_root=1e-8)),
        (
            {"learning_rate": 0.01, "weight_decay": 0.2, "no_decay": ["bias", "ln_"], "optimizer": "adam"},
            Adam(eps_root=1e-8, decoupled=False),
        ),
        ({"learning_rate": 0.01, "weight_decay": 0.2, "no_decay": ["bias", "ln_"]}, Adam(eps_root=1e-8)),
    ],
)
def test_retraining_equals_the_functional_training_step(
    settings: dict[str, Any], rule: Optimizer, corpus: PackedCorpus
) -> None:
    training = TrainingConfig(**{**COMMON, **settings})
    model = small_model("gpt2", torch.float64)
    space = ParameterSpace.of(model)
    rate = LearningRate(training.learning_rate, training.schedule, training.warmup_steps, training.steps)
    decay = weight_decay(space, training)
    step = TrainingStep(causal_forward(model), space, rule, rate, training.gradient_clipping, decay)
    state = step.initial(space.read(model))
    start = state.theta.clone()
    for number, rows in enumerate(batch_schedule(len(corpus.tokens), 4, training.steps, training.seed)):
        tokens, sources = (torch.from_numpy(a[rows]).long() for a in (corpus.tokens, corpus.token_sources))
        batch = Batch(tokens[:, :-1], tokens[:, 1:], sources[:, 1:])
        state = step(state, torch.tensor(WEIGHTS, dtype=torch.float64), batch, number)
    trained = space.read(retrain(model, corpus, training, WEIGHTS))
    assert (trained - start).norm() > 0.05
    torch.testing.assert_close(trained, state.theta, rtol=1e-6, atol=1e-8)


def test_rooted_adam_becomes_torchs_own(corpus: PackedCorpus) -> None:
    ends = []
    for eps_root in (0.0, 1e-300):
        training = TrainingConfig(**COMMON, learning_rate=0.01, eps_root=eps_root, weight_decay=0.2, **ADAM)
        model = retrain(small_model("gpt2", torch.float64), corpus, training, WEIGHTS)
        ends.append(ParameterSpace.of(model).read(model))
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)


def test_where_torch_has_the_optimizer_it_is_torchs() -> None:
    model = torch.nn.Linear(1, 1)
    assert type(make_optimizer(model, TrainingConfig(eps_root=0))) is torch.optim.AdamW
    assert type(make_optimizer(model, TrainingConfig(eps_root=0, optimizer="adam"))) is torch.optim.Adam
    assert type(make_optimizer(model, TrainingConfig(optimizer="sgd"))) is torch.optim.SGD


def test_the_number_of_weights_must_be_that_of_the_sources(corpus: PackedCorpus) -> None:
    with pytest.raises(ValueError, match="3 source weights for 4 sources"):
        retrain(small_model("gpt2"), corpus, TrainingConfig(**COMMON), [1.0, 1.0, 1.0])


def test_completion_logprobs_are_those_of_the_readout(queries: list[EncodedQuery]) -> None:
    model = small_model("gpt2", torch.float64)
    space = ParameterSpace.of(model)
    theta = space.read(model)
    expected = [
        Sequences(causal_forward(model), space, theta, torch.tensor([query.tokens]))
        .logprobs(theta)[0, query.start - 1 :]
        .sum()
        for query in queries
    ]
    np.testing.assert_allclose(completion_logprobs(model, queries), torch.stack(expected).numpy(), rtol=1e-10)
