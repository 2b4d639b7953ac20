"""Recent values of a migration, and the only estimates of the remaining time.

A client adds a view about once a second. Views arrive when something changes; sampling the newest view
at a fixed rate gives sparklines an even time axis. While the coordinator cannot be reached, None is added.
The figures of copying and applying differ by orders of magnitude, so the history is cleared between them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from clients.presentation.progress import copied_bytes, lag_known, overall
from services.shared.model import MigrationView, Phase

SAMPLES = 300
INTERVAL_S = 1.0

WINDOW_S = 60.0
"""Estimates use this period: long enough to be stable, short enough to show a change."""

TREND_WINDOW_S = 15.0
"""The trend of the lag uses this period, because the trend reverses when the applier begins."""

_LEAST = 5
"""Number of samples needed to compute a rate."""

_APPLYING = frozenset(
    {
        Phase.CATCHUP,
        Phase.STREAMING,
        Phase.SWITCHOVER,
        Phase.SWITCHED_OVER,
        Phase.REVERSE,
        Phase.ROLLBACK,
        Phase.BIDIRECTIONAL,
    }
)
_HALTED = frozenset({Phase.PAUSED, Phase.FAILED})


@dataclass(frozen=True, slots=True)
class Sample:
    """lag_bytes, lag_seconds: None before anything was applied. rows, bytes, transactions: per
    second. copied: bytes so far."""

    lag_bytes: float | None
    lag_seconds: float | None
    rows: float
    bytes: float
    transactions: float
    copied: float


class Trend(StrEnum):
    UNKNOWN = "unknown"
    CAUGHT_UP = "caught up"
    SHRINKING = "shrinking"
    STEADY = "steady"
    GROWING = "growing"


class History:
    """The last SAMPLES samples, at least INTERVAL_S seconds after each other."""

    def __init__(self, first: MigrationView | None = None) -> None:
        self._samples: deque[tuple[float, Sample | None]] = deque(maxlen=SAMPLES)
        self._applying = False
        if first is not None:
            self.add(first)

    def add(self, view: MigrationView | None, at: float | None = None) -> None:
        """Add a sample of `view`; None while the known figures are out of date.

        at: monotonic seconds. A view less than INTERVAL_S after the last sample is ignored. Without `at`,
        the sample is dated INTERVAL_S after the last one; this is for callers with their own timer.
        """
        last = self._samples[-1][0] if self._samples else None
        if at is None:
            at = last + INTERVAL_S if last is not None else 0.0
        if view is not None and self._other_stage(view):
            self._samples.clear()
        elif last is not None and at - last < INTERVAL_S:
            return
        self._samples.append((at, _sample(view) if view is not None else None))

    def series(self, name: str) -> list[float | None]:
        """The values from oldest to newest; `name` is a field of Sample."""
        return [value for _, value in self._timed(name)]

    def copy_seconds_left(self, view: MigrationView) -> float | None:
        """Seconds until the rows of `view` are copied, at the rate of the last minute. With too few samples,
        the rate that the coordinator reports is used. None if no rows are being copied, or if neither rate
        is known."""
        if view.phase is not Phase.COPY:
            return None
        pace = _slope(self._timed("copied"), WINDOW_S)
        if pace is None and self._samples and self._samples[-1][1] is not None:
            pace = view.rates.bytes_per_second
        if pace is None or pace <= 0:
            return None
        total = overall(view.tables)
        return (total.bytes_total - total.bytes_done) / pace

    def lag_trend(self) -> tuple[Trend, float]:
        """Whether the lag (bytes) shrinks or grows, and if it shrinks, the seconds until it is 0. The lag is
        steady if it changes by less than a hundredth in a minute."""
        lag = self._timed("lag_bytes")
        now = lag[-1][1] if lag else None
        if now is None:
            return Trend.UNKNOWN, 0.0
        if now <= 0:
            return Trend.CAUGHT_UP, 0.0
        pace = _slope(lag, TREND_WINDOW_S)
        if pace is None:
            return Trend.UNKNOWN, 0.0
        if abs(pace) * 60 < now / 100:
            return Trend.STEADY, 0.0
        return (Trend.GROWING, 0.0) if pace > 0 else (Trend.SHRINKING, now / -pace)

    def _timed(self, name: str) -> list[tuple[float, float | None]]:
        return [(at, None if sample is None else getattr(sample, name)) for at, sample in self._samples]

    def _other_stage(self, view: MigrationView) -> bool:
        before = self._applying
        self._applying = (view.resume_phase if view.phase in _HALTED else view.phase) in _APPLYING
        return self._applying is not before


def _sample(view: MigrationView) -> Sample:
    rates, positions, known = view.rates, view.positions, lag_known(view)
    return Sample(
        positions.lag_bytes if known else None,
        positions.lag_seconds if known else None,
        rates.rows_per_second,
        rates.bytes_per_second,
        rates.transactions_per_second,
        copied_bytes(view.tables),
    )


def _slope(series: list[tuple[float, float | None]], window_s: float) -> float | None:
    """Change per second of the known samples in the last `window_s` seconds; None if there are too few."""
    since = series[-1][0] - window_s if series else 0.0
    known = [(at, value) for at, value in series if value is not None and at > since]
    if len(known) < _LEAST:
        return None
    (first_at, first), (last_at, last) = known[0], known[-1]
    return (last - first) / (last_at - first_at)
