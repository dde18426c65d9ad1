"""In-context probing: what a document in the prompt does to the log-probability of a completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dist_attr.config import ProbeConfig
from dist_attr.corpus import Tokenizer
from dist_attr.influence import token_losses
from dist_attr.models import context_length
from dist_attr.probing.passages import Passage
from dist_attr.probing.prompts import Prompts, Reading
from dist_attr.readout import Query, store_model
from dist_attr.store import InfluenceStore

Numbers = NDArray[np.float32]


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

    Attributes:
        window: tokens of a passage.
        context: tokens that the model reads at once.

    Raises:
        ConfigError: the window leaves no room for a query, or there is no chat template to use.
    """

    def __init__(self, module: nn.Module, tokenizer: Tokenizer, config: ProbeConfig) -> None:
        self.module, self.tokenizer, self.config = module, tokenizer, config
        self.context = context_length(module)
        self._prompts = Prompts(tokenizer, config, self.context)
        self.window = self._prompts.window
        self._device = next(module.parameters()).device

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
        prompted = [self._prompts.of(query, number) for number, query in enumerate(queries)]
        readings = [
            [
                Reading((), query.plain.tokens, len(query.plain.completion)),
                *(self._prompts.after(passage, query) for passage in own),
            ]
            for query, own in zip(prompted, passages, strict=True)
        ]
        found = iter(self._logprobs([reading for own in readings for reading in own], progress))
        rows = [np.stack([next(found) for _ in own]) for own in readings]
        return [
            Probe(of_query[0], of_query[1:] - of_query[0], list(own))
            for of_query, own in zip(rows, passages, strict=True)
        ]

    @torch.no_grad()
    def _logprobs(self, readings: Sequence[Reading], progress: Callable[[int], None] | None) -> list[Numbers]:
        found = []
        for reading in readings:
            tokens = torch.tensor([[*reading.prefix, *reading.tail]], device=self._device)
            logits = self.module(tokens[:, :-1], logits_to_keep=reading.scored).logits.float()
            found.append(-token_losses(logits, tokens[:, -reading.scored :])[0].cpu().numpy())
            if progress is not None:
                progress(1)
        return found
