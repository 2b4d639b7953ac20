"""How often a part's progress is worth a report."""

from __future__ import annotations

import time
from collections.abc import Callable

INTERVAL_S = 0.5


class Throttle:
    """Passes on the first rows and bytes at once, then the newest at most every `interval_s`."""

    def __init__(
        self,
        pass_on: Callable[[int, int], None],
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pass_on = pass_on
        self._interval_s = interval_s
        self._clock = clock
        self._next = 0.0

    def __call__(self, rows: int, size: int) -> None:
        now = self._clock()
        if now >= self._next:
            self._next = now + self._interval_s
            self._pass_on(rows, size)
