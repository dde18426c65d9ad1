"""Reading on after tokens that were read before, whose keys and values are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

# What the layers know of some tokens: (layers, keys and values, heads, tokens, width).
Prefix: TypeAlias = Tensor


class _Before:
    """What the layers read besides their own tokens, as transformers asks a cache for it.

    Prefixes are put beside the tokens' own keys layer by layer, so that one of them may stand before many rows and is
    nowhere copied but in the layer at work. They are not changed.
    """

    def __init__(self, prefixes: Sequence[Prefix], keep: bool = False) -> None:
        self.prefixes, self.longest = prefixes, max(prefix.shape[-2] for prefix in prefixes)
        self.keep = keep
        self.own: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, L, width) of the tokens read now, and the same with the prefixes before them."""
        if self.keep:
            self.own.append(torch.stack((keys, values)))
        return self._joined(layer, 0, keys), self._joined(layer, 1, values)

    def _joined(self, layer: int, which: int, own: Tensor) -> Tensor:
        rows, heads, tokens, width = own.shape
        joined = own.new_zeros(rows, heads, self.longest + tokens, width)
        joined[:, :, self.longest :] = own
        for row, prefix in zip(joined, self.prefixes, strict=True):
            if length := prefix.shape[-2]:
                row[:, :length] = prefix[layer, which]
        return joined


def read_after(model: nn.Module, prefixes: Sequence[Prefix], tokens: Tensor, offsets: Tensor) -> Tensor:
    """What the last layer makes of tokens, before the output layer: (B, L, hidden size).

    A row may hold several sequences one after another; each sees its row's prefix and itself.

    Args:
        model: a transformers causal LM.
        prefixes: one for each row.
        tokens: (B, L).
        offsets: where each token stands in its sequence, 0 for the first, (B, L); padding is 0 too.
    """
    return _read(model, _Before(prefixes), tokens, offsets)


def prefixes_after(model: nn.Module, start: Prefix | None, sequences: Sequence[Sequence[int]]) -> list[Prefix]:
    """The prefixes that some sequences of tokens come to, all after the same start, or after none."""
    device, length = next(model.parameters()).device, max(1, *map(len, sequences))
    padding = [[0] * (length - len(sequence)) for sequence in sequences]
    tokens = torch.tensor([[*own, *more] for own, more in zip(sequences, padding, strict=True)], device=device)
    offsets = torch.tensor([[*range(len(own)), *more] for own, more in zip(sequences, padding, strict=True)])
    nothing = torch.empty(0, 2, 0, 0, 0, device=device)
    before = _Before([nothing if start is None else start] * len(sequences), keep=True)
    _read(model, before, tokens, offsets.to(device))
    own = torch.stack(before.own)
    rows = [own[:, :, row, :, : len(sequence)] for row, sequence in enumerate(sequences)]
    return [row.clone() if start is None else torch.cat((start, row), -2) for row in rows]


def _read(model: nn.Module, before: _Before, tokens: Tensor, offsets: Tensor) -> Tensor:
    lengths = torch.tensor([prefix.shape[-2] for prefix in before.prefixes], device=tokens.device)[:, None]
    sequence = (offsets == 0).cumsum(1)
    own = (sequence[:, :, None] == sequence[:, None, :]).tril()
    known = (torch.arange(before.longest, device=tokens.device) < lengths)[:, None, :].expand(-1, tokens.shape[1], -1)
    dtype = next(model.parameters()).dtype
    seen = torch.cat((known, own), -1)
    mask = torch.zeros(seen.shape, dtype=dtype, device=tokens.device).masked_fill(~seen, torch.finfo(dtype).min)
    hidden = model.base_model(  # type: ignore[operator]
        input_ids=tokens,
        attention_mask=mask[:, None],
        position_ids=lengths + offsets,
        past_key_values=before,
        use_cache=True,
    ).last_hidden_state
    assert isinstance(hidden, Tensor)
    return hidden
