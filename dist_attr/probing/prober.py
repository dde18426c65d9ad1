"""In-context probing: what a document in the prompt does to the log-probability of a completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from dist_attr.config import ProbeConfig
from dist_attr.corpus import Tokenizer
from dist_attr.models import context_length
from dist_attr.probing.passages import Passage
from dist_attr.probing.prompts import Prompts, Reading
from dist_attr.probing.reader import Numbers, Reader
from dist_attr.readout import Query, store_model
from dist_attr.store import InfluenceStore

CACHE_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class Probe:
    """What probing says of one query.

    Attributes:
        logprobs: log p of the completion's tokens without a passage, (completion tokens,), nats.
        token_scores: log p with each passage minus without, (passages, completion tokens), nats.
        passages: in the order of the scores.
    """

    logprobs: Numbers
    token_scores: Numbers
    passages: list[Passage]

    @property
    def scores(self) -> Numbers:
        """Of each passage the sum over the completion's tokens, (passages,), nats."""
        return np.asarray(self.token_scores.sum(1))


class Prober:
    """A model, ready to be probed.

    Args:
        module: a causal language model in evaluation mode.
        tokenizer: of the model.
        config: the template and the window.
        cache_bytes: how much is remembered of the passages that were put into prompts last, so that the next queries
            with the same passages need not read them again; changes speed, not the scores.

    Attributes:
        window: tokens of a passage.
        context: tokens that the model reads at once.

    Raises:
        ConfigError: the window leaves no room for a query, or there is no chat template to use.
        ModelError: the model's type is not supported, or it is in training mode.
    """

    def __init__(
        self, module: nn.Module, tokenizer: Tokenizer, config: ProbeConfig, *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.module, self.tokenizer, self.config = module, tokenizer, config
        self.context = context_length(module)
        self._prompts = Prompts(tokenizer, config, self.context)
        self.window = self._prompts.window
        self._reader = Reader(module, cache_bytes)

    @classmethod
    def of(cls, store: InfluenceStore, config: ProbeConfig, model: str | None = None) -> Prober:
        """The prober of a store's model.

        Args:
            store: from `open_store`. Its model is the `model` folder beside it.
            config: the template and the window.
            model: another place, any fsspec URL, of the very same model and tokenizer.

        Raises:
            StoreError: the model is not the store's.
            ModelError: there is no model.
            ConfigError: as for a prober of any model.
        """
        return cls(*store_model(store, model), config)

    def probe(
        self,
        queries: Sequence[Query],
        passages: Sequence[Sequence[Passage]],
        progress: Callable[[int], None] | None = None,
    ) -> list[Probe]:
        """Probe queries with passages.

        Args:
            queries: any number.
            passages: of each query those that go into its prompt, one at a time.
            progress: called with the number of prompts that were read since it was called last; there is one for each
                query and one for each of its passages.

        Raises:
            QueryError: a query is empty or not Unicode, or does not fit the context with one of its passages; none is
                probed then.
        """
        readings = self._readings(queries, passages)
        found = iter(self._reader.logprobs([reading for own in readings for reading in own], progress))
        rows = [np.stack([next(found) for _ in own]) for own in readings]
        return [
            Probe(of_query[0], of_query[1:] - of_query[0], list(own))
            for of_query, own in zip(rows, passages, strict=True)
        ]

    def check(self, queries: Sequence[Query], passages: Sequence[Sequence[Passage]]) -> None:
        """Raises QueryError where `probe` would, without reading anything."""
        self._readings(queries, passages)

    def _readings(self, queries: Sequence[Query], passages: Sequence[Sequence[Passage]]) -> list[list[Reading]]:
        prompted = [self._prompts.of(query, number) for number, query in enumerate(queries)]
        return [
            [
                Reading.alone(query.plain),
                *(self._prompts.after(passage, query) for passage in own),
            ]
            for query, own in zip(prompted, passages, strict=True)
        ]
