"""A store's model, ready to read out queries along any directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

import psutil
import torch
from torch import Tensor, nn

from dist_attr.config import PrecisionName, ReadoutName
from dist_attr.corpus import Tokenizer, token_strings
from dist_attr.errors import QueryError, StoreError
from dist_attr.influence import (
    ParameterSpace,
    Scores,
    Sequences,
    central_difference_logprobs,
    counterfactual_logprobs,
    directional_logprobs,
)
from dist_attr.models import causal_forward, context_length
from dist_attr.readout.attribution import Along
from dist_attr.readout.model import store_model
from dist_attr.readout.query import EncodedQuery, Query, encode_queries
from dist_attr.readout.rows import Rows
from dist_attr.store import InfluenceStore

BATCH_TOKENS = 512  # of queries read out together: enough to keep a core busy, little enough for its cache
ADAPTERS = 0.2  # up to this share of the parameters, the models of several sources share most of their layers
HALF: PrecisionName = "bf16"


class ReadoutEngine:
    """The model of a store, and how queries are read out of it.

    Args:
        store: from `open_store`. Its model is the `model` folder beside it.
        model: another place, any fsspec URL, of the very same model and tokenizer.
        per_pass: directions read out together, where memory allows it; changes memory and speed, not the scores.

    Raises:
        StoreError: the model is not the store's.
        ModelError: there is no model.
    """

    def __init__(
        self,
        store: InfluenceStore,
        *,
        model: str | None = None,
        per_pass: int = 8,
    ) -> None:
        module, tokenizer = store_model(store, model)
        space = ParameterSpace(store.manifest.space.names, store.manifest.space.shapes)
        parameters = dict(module.named_parameters())
        if any(name not in parameters or parameters[name].shape != shape for name, shape in space.items()):
            raise StoreError(f"{store.url}: the parameter space in its manifest is not that of its model")
        self.device = next(module.parameters()).device
        self.precision: PrecisionName = "fp32"
        self.tokenizer: Tokenizer = tokenizer
        self.context = context_length(module)
        self.module: nn.Module = module
        self.module.requires_grad_(False)
        self._space, self._theta = space, space.read(self.module)
        self._per_pass, self._adapters = per_pass, store.manifest.space.coverage <= ADAPTERS

    def lower_precision(self) -> None:
        """Compute in bfloat16 from now on; what that costs is measured in `checks`."""
        self.precision = HALF
        self.module.to(torch.bfloat16)
        self._theta = self._theta.to(torch.bfloat16)

    def encode_all(self, queries: Sequence[Query]) -> tuple[list[EncodedQuery], list[EncodedQuery | None]]:
        """The tokens of some queries, and of their baselines. Raises QueryError, naming the query's number."""
        return encode_queries(queries, self.tokenizer, self.context)

    def strings(self, query: EncodedQuery) -> list[str]:
        """The tokens that are scored."""
        return token_strings(self.tokenizer, query.completion)

    def check(self, readout: str) -> None:
        """Raises QueryError where a readout does not exist, or not in this precision."""
        if readout not in get_args(ReadoutName):
            raise QueryError(f"unknown readout {readout!r}; there are {', '.join(get_args(ReadoutName))}")
        if readout != "linear" and self.precision == HALF:
            raise QueryError(
                f"the {readout} readout takes differences, which drown in the rounding of bfloat16; ask for the linear "
                "one, or read out in fp32"
            )

    def read(self, queries: Sequence[EncodedQuery], rows: Rows, readout: ReadoutName = "linear") -> list[Along]:
        """Read out queries along directions; they are batched by length.

        Raises:
            QueryError: the readout does not exist, or a query does not fit into memory.
        """
        self.check(readout)
        found: list[Along | None] = [None] * len(queries)
        for batch in batches(queries):
            first = min(queries[i].start for i in batch) - 1
            tokens = _padded([queries[i].tokens for i in batch]).to(self.device)
            result = self._read_out(tokens, first, rows, readout)
            for position, i in enumerate(batch):
                scored = slice(queries[i].start - 1 - first, len(queries[i].tokens) - 1 - first)
                scores = result.scores[:, position, scored].float().cpu().numpy()
                found[i] = Along(scores, result.logprobs[position, scored].float().cpu().numpy())
        return [of_query for of_query in found if of_query is not None]

    def _read_out(self, tokens: Tensor, first: int, rows: Rows, readout: ReadoutName) -> Scores:
        at = Sequences(causal_forward(self.module, first), self._space, self._theta, tokens, first)
        parts = (part.to(self._theta.dtype) for part in rows.parts(self._at_once(tokens, first, len(rows))))
        try:
            if readout == "counterfactual":
                return counterfactual_logprobs(at, parts, stacked=self._adapters)
            return (directional_logprobs if readout == "linear" else central_difference_logprobs)(at, parts)
        except torch.OutOfMemoryError as error:
            raise _too_large(tokens) from error

    def _at_once(self, tokens: Tensor, first: int, directions: int) -> int:
        """How many directions go through together: as many as were asked for, or as memory has room for.

        Raises:
            QueryError: it has none for a single one.
        """
        (batch, length), config = tokens.shape, self.module.config
        heads, width = config.num_attention_heads, 4 * config.hidden_size  # type: ignore[union-attr, operator]
        # The largest things alive at once, in numbers: logits in their four forms, attention's, and a layer's.
        each = batch * (4 * (length - first) * config.vocab_size + 4 * heads * length**2 + 4 * length * width)  # type: ignore[union-attr, operator]
        own = self._theta.element_size() * (2 * each + self._theta.numel())
        room = int(0.9 * free_memory(self.device)) - self._theta.element_size() * each
        if room < own and directions:
            raise _too_large(tokens)
        return max(1, min(self._per_pass, int(room // own)))


def batches(queries: Sequence[EncodedQuery]) -> Iterator[list[int]]:
    """Indices of queries of similar length, as many as fit into a batch."""
    batch: list[int] = []
    for i in sorted(range(len(queries)), key=lambda i: len(queries[i].tokens)):
        if batch and (len(batch) + 1) * len(queries[i].tokens) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def free_memory(device: torch.device) -> int:
    """Bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _too_large(tokens: Tensor) -> QueryError:
    return QueryError(
        f"{tokens.shape[1]} tokens do not fit into the memory of a readout; shorten the prompt from its beginning, or "
        "serve with more memory"
    )


def _padded(sequences: Sequence[Sequence[int]]) -> Tensor:
    length = max(map(len, sequences))
    return torch.tensor([[*sequence, *[0] * (length - len(sequence))] for sequence in sequences])
