"""Recent values, one sample a second, for the sparklines and the estimates.

Views arrive when something changes; sampling the newest one at a fixed pace gives the
sparklines an even time axis. While the coordinator cannot be heard the samples are None.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields

from clients.tui.progress import copied_bytes
from services.shared.model import MigrationView

SAMPLES = 300
INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """lag_bytes, lag_seconds; rows, bytes, transactions per second; copied: bytes so far."""

    lag_bytes: float
    lag_seconds: float
    rows: float
    bytes: float
    transactions: float
    copied: float


SERIES = tuple(field.name for field in fields(Sample))


class History:
    """The last SAMPLES samples."""

    def __init__(self) -> None:
        self._samples: deque[Sample | None] = deque(maxlen=SAMPLES)

    def add(self, view: MigrationView | None) -> None:
        """Sample `view`; None when what is known is out of date."""
        if view is None:
            self._samples.append(None)
            return
        rates, positions = view.rates, view.positions
        self._samples.append(
            Sample(
                positions.lag_bytes,
                positions.lag_seconds,
                rates.rows_per_second,
                rates.bytes_per_second,
                rates.transactions_per_second,
                copied_bytes(view.tables),
            )
        )

    def series(self, name: str) -> list[float | None]:
        """Oldest first; `name` is a field of Sample."""
        return [None if sample is None else float(getattr(sample, name)) for sample in self._samples]
