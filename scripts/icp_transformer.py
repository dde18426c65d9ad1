"""A small transformer that learns linear regression in its context, and probing it, for scripts/icp_regression.py.

After Garg et al., What Can Transformers Learn In-Context? A Case Study of Simple Function Classes (2022): a GPT-2 with
continuous inputs, trained on fresh tasks only to answer every query from the pairs before it.

Design decisions:
- A token holds a pair and the next x, whose y is to be predicted, instead of an x or a y. A context is half as long,
  and the plateau in which a model learns to join an x and its y falls away; no curriculum is needed.
- The noise of a task is drawn from the levels that will be asked about; the model is not told which.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from scripts.icp_linear import Floats, Tasks

AT_ONCE = 512  # contexts in a forward pass


@dataclass(frozen=True)
class Recipe:
    """How the transformer is made and trained."""

    dimensions: int = 4
    pairs: int = 20  # in the longest context
    noises: tuple[float, ...] = (0.1, 0.3, 1.0)
    width: int = 64
    layers: int = 4
    heads: int = 4
    steps: int = 8000
    warmup: int = 200
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0


class Regressor(Protocol):
    """Whatever answers queries from pairs."""

    def predict(self, x: Floats, y: Floats, queries: Floats) -> Floats:
        """Answers (contexts, ...) to queries (contexts, ..., dimensions) after the pairs of their context.

        Args:
            x: (contexts, n, dimensions).
            y: (contexts, n).
            queries: any number for each context, the same for all.
        """
        ...


class InContextRegressor(nn.Module):
    """Answers to queries from the pairs before them."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        config = GPT2Config(
            n_embd=recipe.width,
            n_layer=recipe.layers,
            n_head=recipe.heads,
            n_positions=recipe.pairs + 1,
            vocab_size=1,
            bos_token_id=None,
            eos_token_id=None,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        self.read_in = nn.Linear(2 * recipe.dimensions + 1, recipe.width)
        self.body = GPT2Model(config)
        self.body.wte.requires_grad_(False)  # there are no words
        self.read_out = nn.Linear(recipe.width, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Predictions (B, L) of y at x (B, L, dimensions), each from the pairs before it; the last y is not used."""
        d = self.recipe.dimensions
        tokens = x.new_zeros(*x.shape[:2], 2 * d + 1)
        tokens[:, 1:, :d], tokens[:, 1:, d], tokens[:, :, d + 1 :] = x[:, :-1], y[:, :-1], x
        hidden = self.body(inputs_embeds=self.read_in(tokens), use_cache=False).last_hidden_state
        predictions: Tensor = self.read_out(hidden)[..., 0]
        return predictions

    @torch.no_grad()
    def predict(self, x: Floats, y: Floats, queries: Floats) -> Floats:
        """`Regressor.predict`; a context has up to `pairs` pairs, or none."""
        contexts, pairs, d = x.shape
        flat = queries.reshape(contexts, -1, d)
        each = flat.shape[1]
        answers = np.empty((contexts, each))
        together = max(1, AT_ONCE // each)
        for first in range(0, contexts, together):
            some = slice(first, first + together)
            xs = np.repeat(x[some, None], each, axis=1)
            rows = np.concatenate([xs, flat[some][:, :, None]], axis=2).reshape(-1, pairs + 1, d)
            ys = np.repeat(np.pad(y[some], ((0, 0), (0, 1))), each, axis=0)
            found = self(torch.tensor(rows, dtype=torch.float32), torch.tensor(ys, dtype=torch.float32))
            answers[some] = found[:, -1].double().numpy().reshape(-1, each)
        return answers.reshape(queries.shape[:-1])


def batch(recipe: Recipe, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs of fresh tasks: x (B, pairs + 1, dimensions) and y (B, pairs + 1), as `icp_linear.draw` has them."""
    b, n, d = recipe.batch_size, recipe.pairs + 1, recipe.dimensions
    x = torch.randn(b, n, d, generator=draw)
    w = torch.randn(b, d, 1, generator=draw) / math.sqrt(d)
    noise = torch.tensor(recipe.noises)[torch.randint(len(recipe.noises), (b, 1), generator=draw)]
    return x, (x @ w)[..., 0] + noise * torch.randn(b, n, generator=draw)


def train(recipe: Recipe, advance: Callable[[], Any]) -> InContextRegressor:
    """Train from scratch on the squared errors of all predictions; `advance` is called after each step."""
    torch.manual_seed(recipe.seed)
    model, draw = InContextRegressor(recipe), torch.Generator().manual_seed(recipe.seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda t: min(1.0, (t + 1) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * t / recipe.steps)),
    )
    for _ in range(recipe.steps):
        x, y = batch(recipe, draw)
        loss = (model(x, y) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate.step()
        advance()
    return model.eval()


def save(model: InContextRegressor, file: Path) -> None:
    """Weights as safetensors, with the recipe."""
    from safetensors.torch import save_file

    partial = file.with_suffix(".partial")
    save_file(model.state_dict(), partial, metadata={"recipe": json.dumps(asdict(model.recipe))})
    partial.replace(file)


def load(recipe: Recipe, file: Path) -> InContextRegressor | None:
    """The trained model, or None where there is none of this very recipe."""
    from safetensors import safe_open

    if not file.exists():
        return None
    with safe_open(file, "pt") as opened:
        if (opened.metadata() or {}).get("recipe") != json.dumps(asdict(recipe)):
            return None
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    model = InContextRegressor(recipe)
    model.load_state_dict(weights)
    return model.eval()


def probe_alone(model: Regressor, tasks: Tasks) -> Floats:
    """What the queries' log p gains by each pair alone in the context, (tasks, domains, n), nats."""
    number, pairs, d = tasks.x.shape
    queries = np.repeat(tasks.queries, pairs, axis=0)
    one = model.predict(tasks.x.reshape(-1, 1, d), tasks.y.reshape(-1, 1), queries)
    none = model.predict(tasks.x[:, :0], tasks.y[:, :0], tasks.queries)
    with_one = one.reshape(number, pairs, -1).swapaxes(1, 2)
    return tasks.loglikelihoods(with_one) - tasks.loglikelihoods(none)[..., None]


def probe_left_out(model: Regressor, tasks: Tasks, order: int = 0) -> tuple[Floats, Floats]:
    """What the queries' log p loses when each pair leaves the context, (tasks, domains, n), nats; and the predictions.

    The pairs stand as they were drawn in order 0, shuffled in others; those that stay keep their order. The predictions
    (tasks, domains) are those after all pairs.
    """
    number, pairs, d = tasks.x.shape
    places = np.tile(np.arange(pairs), (number, 1))
    if order:
        places = np.random.default_rng(order).permuted(places, axis=1)
    x, y = np.take_along_axis(tasks.x, places[..., None], 1), np.take_along_axis(tasks.y, places, 1)
    others = np.array([[other for other in range(pairs) if other != left] for left in range(pairs)])
    whole = model.predict(x, y, tasks.queries)
    queries = np.repeat(tasks.queries, pairs, axis=0)
    parts = model.predict(x[:, others].reshape(-1, pairs - 1, d), y[:, others].reshape(-1, pairs - 1), queries)
    without = parts.reshape(number, pairs, -1).swapaxes(1, 2)
    scores = tasks.loglikelihoods(whole)[..., None] - tasks.loglikelihoods(without)
    back = np.empty_like(scores)
    np.put_along_axis(back, np.broadcast_to(places[:, None], scores.shape), scores, axis=2)
    return back, whole
