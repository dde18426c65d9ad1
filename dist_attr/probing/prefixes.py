"""What a model's layers made of the prefixes it read last."""

from __future__ import annotations

from collections import OrderedDict

from dist_attr.models import Prefix
from dist_attr.probing.prompts import Tokens


class PrefixCache:
    """Prefixes by their tokens; those that were not used for the longest time make room.

    Args:
        most_bytes: of all that are held; a larger one is not kept.

    Attributes:
        bytes: of all that are held.
    """

    def __init__(self, most_bytes: int) -> None:
        self.bytes, self._most = 0, most_bytes
        self._held: OrderedDict[Tokens, Prefix] = OrderedDict()

    def __contains__(self, tokens: Tokens) -> bool:
        return tokens in self._held

    def __len__(self) -> int:
        return len(self._held)

    def get(self, tokens: Tokens) -> Prefix | None:
        """The prefix, which counts as used now; none if it is not held."""
        if (found := self._held.get(tokens)) is not None:
            self._held.move_to_end(tokens)
        return found

    def put(self, tokens: Tokens, prefix: Prefix) -> None:
        """Hold a prefix, as long as there is room."""
        if tokens in self._held:
            return
        self._held[tokens] = prefix
        self.bytes += prefix.nbytes
        while self.bytes > self._most:
            self.bytes -= self._held.popitem(last=False)[1].nbytes
