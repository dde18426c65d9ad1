"""What scripts/query_cost.py times: one query and what answers it, with dist_attr and with backward passes.

The sources' vectors are random, and the same for all: to dist_attr they are tangents in int8, to the others gradients
in float32. A product with a gradient is then the very score that the linear readout gives, which is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dist_attr.config import ModelConfig, StoreConfig
from dist_attr.influence import ParameterSpace, Sequences, counterfactual_logprobs, directional_logprobs
from dist_attr.models import build_model, causal_forward
from dist_attr.readout.rows import Rows
from dist_attr.store import Codec, Encoded

HELD = 8  # vectors in memory; more sources are these again
PER_PASS = 8  # directions that go through together
TOKENS = 4  # whose gradients are in memory
BLOCK = 4  # columns of a random projection in memory; traker's own 100 take as long each and far more memory


@dataclass(frozen=True, eq=False)
class Work:
    """One way to answer a query.

    Attributes:
        name: of the row in the table.
        do: answers the query for a number of sources. Scores (sources, tokens), or (sources,) of all tokens together,
            if they must be the linear readout's; else nothing.
        times: how often that is done for one query.
        tokens: whether every token has its score.
        beside: the name of another work that the same query takes too.
    """

    name: str
    do: Callable[[int], Tensor | None]
    times: float = 1.0
    tokens: bool = False
    beside: str = ""


@dataclass(frozen=True, eq=False)
class Case:
    """A model with random weights, a query, and its sources' vectors.

    Attributes:
        config: the model's, for libraries that want a copy of their own.
        vocabulary: number of tokens.
        at: one query, of which the second half is the completion.
        encoded: the vectors in int8.
        gradients: the same, decoded: (HELD, P).
    """

    config: ModelConfig
    vocabulary: int
    at: Sequences
    model: nn.Module
    encoded: list[Encoded]
    gradients: Tensor

    @classmethod
    def of(cls, config: ModelConfig, vocabulary: int, length: int) -> Case:
        """With a query of `length` tokens."""
        model = build(config, vocabulary, length)
        space, draw = ParameterSpace.of(model), torch.Generator().manual_seed(0)
        theta, first = space.read(model), length // 2 - 1
        model.requires_grad_(False)
        tokens = torch.randint(0, vocabulary, (1, length), generator=draw)
        codec, encoded, gradients = Codec.of(StoreConfig(codec="int8")), [], torch.empty(HELD, space.size)
        for row in gradients.numpy():
            encoded.append(codec.encode(1e-3 * torch.randn(space.size, generator=draw).numpy().astype(np.float32)))
            codec.decode(encoded[-1], row)
        at = Sequences(causal_forward(model, first), space, theta, tokens, first)
        return cls(config, vocabulary, at, model, encoded, gradients)

    @property
    def length(self) -> int:
        """Tokens of the query."""
        return self.at.tokens.shape[1]

    def parts(self, sources: int) -> Iterator[Tensor]:
        """Tangents as a store's are read."""
        rows = list(islice(cycle(self.encoded), sources))
        return Rows(Codec.of(StoreConfig(codec="int8")), rows, self.at.space.size, torch.device("cpu")).parts(PER_PASS)

    def products(self, gradients: Tensor, sources: int) -> Tensor:
        """Of every source's vector with gradients (n, P): (sources, n)."""
        counts = [min(HELD, sources - start) for start in range(0, sources, HELD)]
        return torch.cat([self.gradients[:count] @ gradients.T for count in counts])


def build(config: ModelConfig, vocabulary: int, length: int) -> nn.Module:
    """The same weights each time; adapters have random weights too, so that no gradient is zero."""
    model = build_model(config, vocabulary=vocabulary, end_of_text=0, sequence_length=length, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02, generator=draw)
    return model


def readouts(case: Case, rank: int) -> list[Work]:
    """dist_attr: no backward pass."""
    at, draw = case.at, torch.Generator().manual_seed(2)

    def with_basis(sources: int) -> None:
        mixing = torch.randn(rank, sources, generator=draw)
        torch.tensordot(mixing, directional_logprobs(at, case.parts(rank)).scores, dims=([0], [0]))

    def counterfactual(sources: int) -> None:
        # The Attributor chooses likewise whether models go through together.
        counterfactual_logprobs(at, case.parts(sources), stacked=case.config.lora is not None)

    return [
        Work("linear", lambda sources: directional_logprobs(at, case.parts(sources)).scores[:, 0], tokens=True),
        Work("counterfactual", counterfactual, tokens=True),
        Work(f"linear, basis of {rank}", with_basis, tokens=True),
    ]


def backward_passes(case: Case) -> list[Work]:
    """Products of gradients at one checkpoint: the sources' are stored, the query's are made."""
    at = case.at

    def outputs() -> tuple[Tensor, Tensor]:
        theta = at.theta.clone().requires_grad_()
        return theta, at.logprobs(theta)[0]

    def of_query(sources: int) -> Tensor:
        theta, logprobs = outputs()
        (gradient,) = torch.autograd.grad(logprobs.sum(), theta)
        return case.products(gradient[None], sources)[:, 0]

    def of_tokens(sources: int) -> Tensor:
        theta, logprobs = outputs()
        together, products = torch.empty(TOKENS, at.space.size), []
        for some in torch.split(logprobs, TOKENS):
            for logprob, row in zip(some, together, strict=False):
                row.copy_(torch.autograd.grad(logprob, theta, retain_graph=True)[0])
            products.append(case.products(together[: len(some)], sources))
        return torch.cat(products, dim=1)

    def of_tokens_together(sources: int) -> Tensor:
        theta, logprobs = outputs()
        ones, products = torch.eye(len(logprobs)), []
        for chosen in torch.split(ones, TOKENS):
            (gradients,) = torch.autograd.grad(logprobs, theta, chosen, retain_graph=True, is_grads_batched=True)
            products.append(case.products(gradients, sources))
        return torch.cat(products, dim=1)

    return [
        Work("a backward pass", of_query),
        Work("a backward pass per token", of_tokens, tokens=True),
        Work(f"the same, {TOKENS} tokens at once", of_tokens_together, tokens=True),
    ]


def trak(case: Case, checkpoints: int, dimensions: int, timed: int) -> list[Work]:
    """TRAK with the parts that traker's TRAKer is made of, less the files it writes and the checkpoints it loads.

    Every checkpoint is the same work once more, and so is every dimension of the projection, whose matrix is too large
    to keep: `timed` of them are timed.

    Raises:
        ImportError: traker is not installed.
    """
    from trak.gradient_computers import FunctionalGradientComputer
    from trak.modelout_functions import AbstractModelOutput
    from trak.projectors import BasicProjector, ProjectionType
    from trak.score_computers import BasicScoreComputer
    from trak.utils import vectorize

    at, device = case.at, torch.device("cpu")

    class Completion(AbstractModelOutput):  # type: ignore[misc]
        """log p(completion | prompt)."""

        def __init__(self) -> None: ...

        def get_output(self, _model: nn.Module, weights: Any, _buffers: Any, tokens: Tensor) -> Tensor:
            # The forward pass knows the module, its buffers and its frozen weights.
            logits = at.forward(weights, tokens[None, :-1])
            return logits.log_softmax(-1).gather(2, tokens[None, at.first + 1 :, None]).sum()

        def get_out_to_loss_grad(self, *_: Any) -> Tensor:
            raise NotImplementedError("of the sources only, which are made before")

    size = at.space.size
    computer = FunctionalGradientComputer(case.model, Completion(), size, torch.float32, device)
    computer.func_weights = at.space.unflatten(at.theta)  # those that are trained
    projector = BasicProjector(size, timed, 0, ProjectionType.normal, device, block_size=min(BLOCK, timed // 2))
    scorer = BasicScoreComputer(torch.float32, device)
    features = torch.randn(HELD, dimensions, generator=torch.Generator().manual_seed(3))

    def gradient() -> Tensor:
        # In the order of the parameter space.
        by_name = computer.compute_per_sample_grad((at.tokens,))
        flat: Tensor = vectorize({name: by_name[name] for name in at.space.names}, device=device)
        return flat

    def unprojected(sources: int) -> None:
        projected = gradient()[:, :dimensions].contiguous()
        scorer.get_scores(features[torch.arange(sources) % HELD], projected, torch.zeros(sources, 1))

    def checked(sources: int) -> Tensor:
        return case.products(gradient(), sources)[:, 0]

    free = Work(f"TRAK-{checkpoints}, projection free", unprojected, checkpoints)
    one, share = torch.randn(1, size, generator=torch.Generator().manual_seed(4)), dimensions / timed

    def projections(_: int) -> None:
        projector.project(one, model_id=0)

    return [
        Work("a backward pass, traker's", checked),
        free,
        Work(f"TRAK-{checkpoints}, {dimensions} dimensions", projections, checkpoints * share, beside=free.name),
    ]
