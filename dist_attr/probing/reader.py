"""Log-probabilities of completions after shared prefixes, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dist_attr.errors import ModelError, QueryError
from dist_attr.influence import token_losses
from dist_attr.models import SUPPORTED_TYPES, Prefix, prefixes_after, read_after
from dist_attr.probing.prefixes import PrefixCache
from dist_attr.probing.prompts import Reading, Tokens
from dist_attr.readout import free_memory

Numbers: TypeAlias = NDArray[np.float32]

# Tokens that are read together: enough to keep a device busy, little enough for a processor's cache.
BATCH_TOKENS = {"cpu": 512, "cuda": 16384}
# Tails after the same prefix share a row of up to so many tokens. The prefix is then copied for the row only, but what
# the tails must not see of each other is computed too, so that longer rows cost more than they save.
ROW_TOKENS = 128
LOGITS = 2**23  # numbers at once


class Row(NamedTuple):
    """Readings with one prefix whose tails are read in one sequence: their numbers, and its length in tokens."""

    prefix: Tokens
    readings: list[int]
    length: int


class Reader:
    """A model that remembers what its layers made of prefixes.

    Args:
        module: a causal language model in evaluation mode; it is not changed.
        most_bytes: of the prefixes that are remembered.

    Raises:
        ModelError: the model's type is not supported, or it is in training mode.
    """

    def __init__(self, module: nn.Module, most_bytes: int) -> None:
        if (kind := str(module.config.model_type)) not in SUPPORTED_TYPES:  # type: ignore[union-attr]
            raise ModelError(f"model type {kind!r} is not supported; there are {', '.join(SUPPORTED_TYPES)}")
        if module.training:
            raise ModelError("the model is in training mode, in which dropout may act; call its eval() first")
        self._module, self._device = module, next(module.parameters()).device
        self._most_bytes, self._cache = most_bytes, PrefixCache(most_bytes)
        with torch.no_grad():
            self._nothing: Prefix = prefixes_after(module, None, [(0,)])[0][..., :0, :]

    @torch.no_grad()
    def logprobs(self, readings: Sequence[Reading], progress: Callable[[int], None] | None = None) -> list[Numbers]:
        """log p of the completion's tokens of each reading, nats.

        Args:
            readings: any number, in any order.
            progress: called with the number of readings that were done since it was called last.

        Raises:
            QueryError: one does not fit into memory.
        """
        try:
            return self._logprobs(readings, progress)
        except torch.OutOfMemoryError as error:
            raise _too_large("these prompts") from error

    def _logprobs(self, readings: Sequence[Reading], progress: Callable[[int], None] | None) -> list[Numbers]:
        found: dict[int, Numbers] = {}
        of_prefix: dict[Tokens, list[int]] = {}
        for number, reading in enumerate(readings):
            of_prefix.setdefault(reading.prefix, []).append(number)
        for group in self._groups(of_prefix):
            prefixes = self._prefixes([readings[of_prefix[tokens][0]] for tokens in group])
            rows = [row for tokens in group for row in _rows(tokens, of_prefix[tokens], readings)]
            for batch in self._batches([(row.length, len(row.prefix)) for row in rows]):
                together = [rows[i] for i in batch]
                before = [prefixes[row.prefix] for row in together]
                numbers = [number for row in together for number in row.readings]
                scored = self._read([[readings[number] for number in row.readings] for row in together], before)
                found.update(zip(numbers, scored, strict=True))
                if progress is not None:
                    progress(len(numbers))
        return [found[number] for number in range(len(readings))]

    def _groups(self, prefixes: Iterable[Tokens]) -> Iterator[list[Tokens]]:
        """Prefixes that are held together, at most half of what is remembered; first those that are remembered."""
        layers, both, heads, _, width = self._nothing.shape
        most = self._most_bytes // (2 * layers * both * heads * width * self._nothing.element_size())
        group: list[Tokens] = []
        total = 0
        for tokens in sorted(prefixes, key=lambda tokens: (tokens not in self._cache, len(tokens))):
            if group and total + len(tokens) > most:
                yield group
                group, total = [], 0
            group.append(tokens)
            total += len(tokens)
        if group:
            yield group

    def _prefixes(self, readings: Sequence[Reading]) -> dict[Tokens, Prefix]:
        """The prefix of each reading, no two of which have the same: remembered, or read now after what they share."""
        found = {reading.prefix: self._remembered(reading.prefix) for reading in readings}
        missing: dict[Tokens, list[Tokens]] = {}
        for reading in readings:
            if found[reading.prefix] is None:
                missing.setdefault(reading.prefix[: reading.shared], []).append(reading.prefix)
        for shared, own in missing.items():
            start = self._remembered(shared)
            if start is None:
                start = prefixes_after(self._module, self._nothing, [shared])[0]
                self._cache.put(shared, start)
            rest = [tokens[len(shared) :] for tokens in own]
            for batch in self._batches([(len(tokens), len(shared)) for tokens in rest], kept=True):
                together = prefixes_after(self._module, start, [rest[i] for i in batch])
                for i, prefix in zip(batch, together, strict=True):
                    found[own[i]] = prefix
                    self._cache.put(own[i], prefix)
        return {tokens: prefix for tokens, prefix in found.items() if prefix is not None}

    def _remembered(self, tokens: Tokens) -> Prefix | None:
        return self._cache.get(tokens) if tokens else self._nothing

    def _read(self, rows: Sequence[Sequence[Reading]], prefixes: Sequence[Prefix]) -> list[Numbers]:
        """log p of the completion's tokens of every reading, row by row."""
        tails = [[reading.tail[:-1] for reading in row] for row in rows]
        length = max(sum(map(len, row)) for row in tails)
        tokens, offsets = np.zeros((2, len(rows), length), np.int64)
        places: list[NDArray[np.int64]] = []  # where in the batch each completion is predicted
        for number, row in enumerate(rows):
            end = 0
            for reading, tail in zip(row, tails[number], strict=True):
                begin, end = end, end + len(tail)
                tokens[number, begin:end], offsets[number, begin:end] = tail, np.arange(len(tail))
                places.append(number * length + np.arange(end - reading.scored, end))
        to_device = [torch.from_numpy(values).to(self._device) for values in (tokens, offsets)]
        hidden = read_after(self._module, prefixes, *to_device).flatten(0, 1)
        targets = [np.array(reading.tail[-reading.scored :], np.int64) for row in rows for reading in row]
        logprobs = self._predict(hidden[np.concatenate(places)], np.concatenate(targets))
        return np.split(logprobs, np.cumsum([len(own) for own in targets])[:-1])

    def _predict(self, hidden: Tensor, targets: NDArray[np.int64]) -> Numbers:
        """log p of targets (N,) at the last layer's output (N, hidden size)."""
        head = self._module.get_output_embeddings()  # type: ignore[operator]
        at_once = max(1, LOGITS // self._module.config.vocab_size)  # type: ignore[union-attr, operator]
        parts = zip(hidden.split(at_once), torch.from_numpy(targets).to(self._device).split(at_once), strict=True)
        found = [-token_losses(head(part).float(), wanted) for part, wanted in parts]
        return torch.cat(found).cpu().numpy()

    def _batches(self, sizes: Sequence[tuple[int, int]], kept: bool = False) -> Iterator[list[int]]:
        """Indices of rows of similar length that are read together, as many as pay and as memory has room for.

        Args:
            sizes: of each row the tokens that are read, and those of its prefix.
            kept: whether keys and values are kept.

        Raises:
            QueryError: there is no room for one.
        """
        room = 0.9 * free_memory(self._device)
        batch: list[int] = []
        longest = 0  # prefix
        for i in sorted(range(len(sizes)), key=sizes.__getitem__):
            length, longest = sizes[i][0], max(longest, sizes[i][1])
            number = len(batch) + 1
            if batch and (
                number * length > BATCH_TOKENS[self._device.type] or number * self._row(length, longest, kept) > room
            ):
                yield batch
                batch, longest = [], sizes[i][1]
            if self._row(length, longest, kept) > room:
                raise _too_large(f"{longest + length} tokens")
            batch.append(i)
        if batch:
            yield batch

    def _row(self, length: int, prefix: int, kept: bool) -> int:
        """Bytes of the largest things that are alive at once for a row: of a layer, and of all that is kept."""
        layers, both, heads, _, width = self._nothing.shape
        config, seen = self._module.config, prefix + length
        all_heads, hidden = config.num_attention_heads, config.hidden_size  # type: ignore[union-attr]
        layer = 16 * hidden * length + 4 * all_heads * length * seen + 4 * hidden * seen  # type: ignore[operator]
        own = layers * both * heads * width * (length + seen) * kept
        return int(self._nothing.element_size() * (layer + own))


def _too_large(what: str) -> QueryError:
    return QueryError(
        f"{what} do not fit into the memory of a probe; shorten the prompt from its beginning, take a smaller window "
        "(--window), or a machine with more memory"
    )


def _rows(prefix: Tokens, numbers: Sequence[int], readings: Sequence[Reading]) -> Iterator[Row]:
    """The readings after one prefix in rows, by the length of their tails."""
    row: list[int] = []
    total = 0
    for number in sorted(numbers, key=lambda number: len(readings[number].tail)):
        length = len(readings[number].tail) - 1
        if row and total + length > ROW_TOKENS:
            yield Row(prefix, row, total)
            row, total = [], 0
        row.append(number)
        total += length
    if row:
        yield Row(prefix, row, total)
