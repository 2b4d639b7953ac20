"""Recent values, one sample a second, for the sparklines and the estimates.

Views arrive when something changes; sampling the newest one at a fixed pace gives the
sparklines an even time axis. While the coordinator cannot be heard the samples are None.
Copying and applying differ by orders of magnitude, so each has a history of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from clients.presentation.progress import copied_bytes, lag_known
from services.shared.model import MigrationView, Phase

SAMPLES = 300
INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """lag_bytes, lag_seconds: None before anything was applied; rows, bytes, transactions per
    second; copied: bytes so far."""

    lag_bytes: float | None
    lag_seconds: float | None
    rows: float
    bytes: float
    transactions: float
    copied: float


_APPLYING = frozenset({Phase.CATCHUP, Phase.STREAMING, Phase.SWITCHOVER, Phase.SWITCHED_OVER})
_HALTED = frozenset({Phase.PAUSED, Phase.FAILED})


class History:
    """The last SAMPLES samples."""

    def __init__(self) -> None:
        self._samples: deque[Sample | None] = deque(maxlen=SAMPLES)
        self._applying = False

    def add(self, view: MigrationView | None) -> None:
        """Sample `view`; None when what is known is out of date."""
        if view is None:
            self._samples.append(None)
            return
        applying = (view.resume_phase if view.phase in _HALTED else view.phase) in _APPLYING
        if applying is not self._applying:
            self._applying = applying
            self._samples.clear()
        rates, positions = view.rates, view.positions
        known = lag_known(view)
        self._samples.append(
            Sample(
                positions.lag_bytes if known else None,
                positions.lag_seconds if known else None,
                rates.rows_per_second,
                rates.bytes_per_second,
                rates.transactions_per_second,
                copied_bytes(view.tables),
            )
        )

    def series(self, name: str) -> list[float | None]:
        """Oldest first; `name` is a field of Sample."""
        return [None if sample is None else getattr(sample, name) for sample in self._samples]
