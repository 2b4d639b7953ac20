"""Throughput of the last seconds, computed from totals that only grow."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals copied or applied since the migration began."""

    rows: int = 0
    bytes: int = 0
    transactions: int = 0
    conflicts: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.rows + other.rows,
            self.bytes + other.bytes,
            self.transactions + other.transactions,
            self.conflicts + other.conflicts,
        )


class RateMeter:
    """A window of samples. `now` must not go back."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Totals]] = deque()

    def observe(self, now: float, totals: Totals) -> None:
        self._samples.append((now, totals))
        # Keep one sample older than the window: the window begins at it.
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_S:
            self._samples.popleft()

    def per_second(self) -> tuple[float, float, float]:
        """(rows, bytes, transactions); zeros until there are two samples."""
        if len(self._samples) < 2:
            return 0.0, 0.0, 0.0
        (then, old), (now, new) = self._samples[0], self._samples[-1]
        seconds = max(now - then, 1e-3)
        return (
            max(0, new.rows - old.rows) / seconds,
            max(0, new.bytes - old.bytes) / seconds,
            max(0, new.transactions - old.transactions) / seconds,
        )
