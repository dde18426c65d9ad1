"""What scripts/field.py computes with other methods, and what a query costs with any of them.

Each task's result is a record, kept by the digest of all that decides it (scripts/dial_tasks.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scripts.dial_simulations import in_turns
from scripts.dial_tasks import Bench, record
from scripts.field_ours import Named

if TYPE_CHECKING:
    from dist_attr.evaluation import Retraining
    from dist_attr.evaluation.baselines import Baseline


@dataclass(frozen=True)
class Library(Named):
    """A method of `dist_attr.evaluation.baselines` with one of its settings.

    The record: `scores` (queries, sources); `seconds` of the processor for all of it the second time, queries included;
    `plain_seconds` of one training.

    Attributes:
        method: its name.
        baseline: with the setting.
        seeds: of the runs whose ends are its checkpoints; the queries are those of the first.
        points: checkpoints of each run, at the ends of that many equal parts; TracIn weighs each with the mean learning
            rate of the part before it.
    """

    method: str
    baseline: Baseline
    seeds: tuple[int, ...]
    points: int = 1

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Train, then score."""
        from dist_attr.corpus import load_tokenizer
        from dist_attr.evaluation.baselines import language_model

        checkpoints, rates, plain = [], [], []
        for seed in self.seeds:
            ends = checkpoints_of(bench.at(seed), self.points)
            checkpoints += [weights for weights, _ in ends[0]]
            rates += [rate for _, rate in ends[0]]
            plain.append(ends[1])
        tokenizer = load_tokenizer(bench.tokenizer, [])
        trained = language_model(bench.at(self.seeds[0]), checkpoints, rates=rates, tokenizer=tokenizer)
        for _ in range(2):  # the first time, imports and memory that is touched for once cost more than a small model
            started = time.process_time()
            scores = self.baseline(trained)
            seconds = time.process_time() - started
        return record({"scores": scores, "seconds": seconds, "plain_seconds": float(np.mean(plain))})


def checkpoints_of(run: Retraining, points: int) -> tuple[list[tuple[dict[str, Any], float]], float]:
    """State dicts of a run, each with the mean learning rate before it, and the seconds of training."""
    from dist_attr.simulation.recipe import learning_rate

    steps, rate, seconds = run.training.steps, learning_rate(run.training), 0.0
    ends = [round(steps * (i + 1) / points) for i in range(points)]
    found: list[tuple[dict[str, Any], float]] = []
    for t, model, _, of_step in in_turns(run):
        seconds += of_step
        if t + 1 in ends:
            first = ends[len(found) - 1] if found else 0
            weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
            found.append((weights, float(np.mean([rate(step) for step in range(first, t + 1)]))))
    return found, seconds


@dataclass(frozen=True)
class QueryCost(Named):
    """The parts that a query is answered with, in seconds of the processor: the best of some rounds that take turns.

    The record: `forward`, one plain forward pass of the query; `linear` and `counterfactual`, dist_attr's readouts of
    all sources; `backward`, the query's gradient by autograd; `product`, of that with a cached vector of each source;
    `projection`, of it by dattri's projector to `dimension` numbers; `lookup` in bm25s, an index of the sources' rows;
    `index_bytes`, of a source's text there. `parameters`, `width` and `plain_seconds` say how large things are.
    """

    dimension: int
    rounds: int = 5

    def compute(self, bench: Bench) -> NDArray[Any]:
        """Time them on the middle query; weights and vectors are random, which changes no time."""
        import torch
        from dattri.func.projection import random_project

        from dist_attr.corpus import load_tokenizer
        from dist_attr.evaluation import completion_logprob
        from dist_attr.evaluation.baselines import language_model
        from dist_attr.influence import ParameterSpace, Sequences, counterfactual_logprobs, directional_logprobs
        from dist_attr.models import causal_forward
        from dist_attr.probing.lexical import LexicalIndex

        run = bench.at(0)
        sources, model = len(run.corpus.sources), run.start()
        query = run.queries[len(run.queries) // 2]
        space, first = ParameterSpace.of(model), query.start - 1
        draw = torch.Generator().manual_seed(0)
        vectors = 1e-3 * torch.randn(sources, space.size, generator=draw)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        tokens = torch.tensor([query.tokens])
        at = Sequences(causal_forward(model, first), space, space.read(model), tokens, first)
        trained = language_model(run, [model.state_dict()], tokenizer=load_tokenizer(bench.tokenizer, []))
        index = LexicalIndex(texts := trained.task.texts(trained.examples, context=False))
        (asked,) = trained.task.texts(tuple(tensor[:1] for tensor in trained.queries), context=True)

        def gradient() -> torch.Tensor:
            parts = torch.autograd.grad(completion_logprob(model, query), trainable)
            return torch.cat([part.flatten() for part in parts])

        flat = gradient()
        project = random_project(
            flat[None], 1, proj_dim=self.dimension, proj_max_batch_size=8, proj_seed=0, proj_type="normal", device="cpu"
        )

        def frozen(do: Callable[[], Any]) -> Callable[[], Any]:
            """Of a model whose weights want no gradient, as a readout's do not."""

            def done() -> Any:
                model.requires_grad_(False)
                try:
                    return do()
                finally:
                    for parameter in trainable:
                        parameter.requires_grad_(True)

            return done

        parts = torch.split(vectors, 8)
        works: dict[str, Callable[[], Any]] = {
            "forward": torch.no_grad()(lambda: completion_logprob(model, query)),
            "linear": frozen(lambda: directional_logprobs(at, parts)),
            "counterfactual": frozen(lambda: counterfactual_logprobs(at, parts)),
            "backward": gradient,
            "product": lambda: vectors @ flat,
            "projection": lambda: project(flat[None]),
            "lookup": lambda: index.scores(asked),
        }
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for turn in range(self.rounds + 1):
            for name, do in works.items():
                started = time.process_time()
                do()
                if turn:
                    seconds[name].append(time.process_time() - started)
        sizes = {
            "parameters": space.size,
            "width": trained.task.representation(model, tuple(tensor[:1] for tensor in trained.queries)).shape[1],
            "index_bytes": sum(len(text.encode()) for text in texts) / sources,
        }
        return record({name: min(values) for name, values in seconds.items()} | sizes)
