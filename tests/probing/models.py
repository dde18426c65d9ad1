"""Small models with a real tokenizer, and what probing them must give, computed plainly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dist_attr.config import ModelConfig
from dist_attr.models import build_model
from dist_attr.probing import Passage
from tests.runs import MODELS

CONTEXT = 96
LORA = {"lora": {"rank": 2}}


def byte_model(name: str, trained: dict[str, Any] | None = None) -> nn.Module:
    """A model that reads bytes, with weights large enough for its outputs to depend on everything."""
    config = ModelConfig(config=MODELS[name], **trained or {})
    model = build_model(config, vocabulary=257, end_of_text=256, sequence_length=CONTEXT, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def plain_logprobs(model: nn.Module, before: Sequence[int], completion: Sequence[int]) -> NDArray[np.float64]:
    """log p of each token of a completion: the whole sequence but for the last token through the model."""
    logits = model(torch.tensor([[*before, *completion[:-1]]]), use_cache=False).logits[0, len(before) - 1 :]
    chosen: NDArray[np.float64] = logits.double().log_softmax(-1)[range(len(completion)), list(completion)].numpy()
    return chosen


def passage(text: str, source: str = "a") -> Passage:
    """A whole document whose tokens are its bytes."""
    return Passage(source, text, 0, 1, tuple(text.encode()))
