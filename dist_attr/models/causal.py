"""A transformers causal LM as a pure function of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dist_attr.influence import Forward


def causal_forward(model: nn.Module, first: int = 0) -> Forward:
    """Token ids (B, L) and named parameters to the logits of positions `first` and later, (B, L − first, vocabulary).

    The causal mask is made here and handed over ready: the one transformers builds from a padding mask does not go
    through vmap, and sequences padded on the right need no other. It is made anew in every call, since a tensor made
    inside one derivative cannot be used in another.
    """

    def forward(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        dtype, length = next(iter(parameters.values())).dtype, inputs.shape[1]
        blocked = torch.full((length, length), torch.finfo(dtype).min, device=inputs.device, dtype=dtype)
        arguments: dict[str, Any] = {
            "input_ids": inputs,
            "attention_mask": blocked.triu(1)[None, None],
            "use_cache": False,
        }
        if first:
            arguments["logits_to_keep"] = length - first
        logits = torch.func.functional_call(model, dict(parameters), (), arguments).logits
        assert isinstance(logits, Tensor)
        return logits

    return forward


def context_length(model: nn.Module) -> int:
    """Tokens the model can read at once."""
    return int(model.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
