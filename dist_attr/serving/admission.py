"""How much is answered at once, and when those that came on top of it may come again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from dist_attr.errors import BusyError


class Admission:
    """Lets requests in.

    Args:
        most: how much of it at once; a single request is always let in.
        what: is counted: "queries".

    Attributes:
        admitted: how much is let in and not yet answered.
    """

    def __init__(self, most: int, what: str) -> None:
        self.admitted = 0
        self._most, self._what = most, what
        self._answered: deque[tuple[float, int]] = deque(maxlen=64)  # when, and how much

    @contextmanager
    def let_in(self, more: int) -> Iterator[None]:
        """While a request is answered. Raises BusyError where it has to come again."""
        if self.admitted and self.admitted + more > self._most:
            raise BusyError(
                f"{self.admitted} {self._what} are being answered, and {self._most} are let in at once; ask "
                "again later",
                self.wait(),
            )
        self.admitted += more
        try:
            yield
            self._answered.append((time.monotonic(), more))
        finally:
            self.admitted -= more

    def wait(self) -> int:
        """Seconds until about half of what is let in is answered, at the pace of the last ones."""
        if len(self._answered) < 2:
            return 1
        seconds = max(time.monotonic() - self._answered[0][0], 1e-3)
        pace = sum(amount for _, amount in self._answered) / seconds
        return int(min(max(self.admitted / 2 / pace, 1), 30))
