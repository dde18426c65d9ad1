"""A transformers causal LM as a pure function of its parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dist_attr.influence import Forward


def causal_forward(model: nn.Module, dtype: torch.dtype | None = None) -> Forward:
    """Token ids (B, L) and named parameters to logits (B, L, vocabulary), computed in `dtype` if one is given.

    The causal mask is made here and handed over ready: the one transformers builds from a padding mask does not go
    through vmap, and sequences padded on the right need no other. It is made anew in every call, since a tensor made
    inside one derivative cannot be used in another.
    """

    def forward(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        given = next(iter(parameters.values())).dtype
        computed, length = dtype or given, inputs.shape[1]
        parameters = {name: parameter.to(computed) for name, parameter in parameters.items()}
        blocked = torch.full((length, length), torch.finfo(computed).min, device=inputs.device, dtype=computed)
        arguments = {"input_ids": inputs, "attention_mask": blocked.triu(1)[None, None], "use_cache": False}
        logits = torch.func.functional_call(model, dict(parameters), (), arguments).logits
        assert isinstance(logits, Tensor)
        return logits.to(given)

    return forward


def context_length(model: nn.Module) -> int:
    """Tokens the model can read at once."""
    return int(model.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
