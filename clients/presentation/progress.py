"""What the figures of a view add up to: overall progress, time left, the order of tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.shared.model import MigrationView, TableProgress, TableState

WINDOW = 60
"""Samples (seconds) that estimates look back on: long enough to be calm, short enough to follow."""

TREND_WINDOW = 15
"""Samples that the trend of the lag looks back on: it turns when the applier begins."""

_LEAST = 5
"""Samples needed before any estimate is shown."""


def table_bytes(table: TableProgress) -> int:
    """Bytes done, in units of the estimate: COPY's bytes are not the heap's, so a copied table
    counts as its whole estimate and a table under way never as more than that."""
    if table.state is TableState.COPIED:
        return table.bytes_estimated
    return min(table.bytes_copied, table.bytes_estimated)


def table_fraction(table: TableProgress) -> float:
    """0 to 1; a table of unknown size is done when it is done."""
    if table.state is TableState.COPIED:
        return 1.0
    if table.bytes_estimated <= 0:
        return 0.0
    return min(0.999, table_bytes(table) / table.bytes_estimated)


def copied_bytes(tables: Iterable[TableProgress]) -> int:
    return sum(table_bytes(table) for table in tables)


@dataclass(frozen=True, slots=True)
class Overall:
    """bytes_done and bytes_total in units of the estimate; tables."""

    tables: int
    copied: int
    copying: int
    bytes_done: int
    bytes_total: int

    @property
    def fraction(self) -> float:
        """By bytes; by tables when no size is known. 1 only when every table is copied."""
        if self.tables == 0:
            return 0.0
        if self.copied == self.tables:
            return 1.0
        if self.bytes_total <= 0:
            return self.copied / self.tables
        return min(0.999, self.bytes_done / self.bytes_total)


def overall(tables: Sequence[TableProgress]) -> Overall:
    return Overall(
        len(tables),
        sum(1 for table in tables if table.state is TableState.COPIED),
        sum(1 for table in tables if table.state is TableState.COPYING),
        copied_bytes(tables),
        sum(table.bytes_estimated for table in tables),
    )


def slope(values: Sequence[float | None], window: int = WINDOW) -> float | None:
    """Change per sample over the known ones of the last `window`, or None when too few are."""
    recent = [(at, value) for at, value in enumerate(values[-window:]) if value is not None]
    if len(recent) < _LEAST:
        return None
    (first_at, first), (last_at, last) = recent[0], recent[-1]
    return (last - first) / (last_at - first_at)


def seconds_left(remaining: float, copied: Sequence[float | None]) -> float | None:
    """Until `remaining` bytes are copied at the pace of the `copied` samples (one a second);
    None while that cannot be said."""
    pace = slope(copied)
    if pace is None or pace <= 0:
        return None
    return remaining / pace


def lag_known(view: MigrationView) -> bool:
    """Whether the lag means anything: something has been applied, or is being."""
    return view.options.follow and bool(view.positions.applied_lsn)


class Trend(StrEnum):
    UNKNOWN = "unknown"
    CAUGHT_UP = "caught up"
    SHRINKING = "shrinking"
    STEADY = "steady"
    GROWING = "growing"


def lag_trend(lag: Sequence[float | None]) -> tuple[Trend, float]:
    """Where the lag (bytes, one sample a second) goes, and the seconds until it is gone when it
    shrinks. Less than a hundredth of itself in a minute is steady."""
    pace = slope(lag, TREND_WINDOW)
    now = lag[-1] if lag else None
    if now is None:
        return Trend.UNKNOWN, 0.0
    if now <= 0:
        return Trend.CAUGHT_UP, 0.0
    if pace is None:
        return Trend.UNKNOWN, 0.0
    if abs(pace) * 60 < now / 100:
        return Trend.STEADY, 0.0
    return (Trend.GROWING, 0.0) if pace > 0 else (Trend.SHRINKING, now / -pace)


class Order(StrEnum):
    """How tables are listed; each says itself to the operator."""

    STATE = "copying first"
    SIZE = "largest first"
    NAME = "by name"
    PROGRESS = "least done first"

    @property
    def next(self) -> Order:
        every = list(Order)
        return every[(every.index(self) + 1) % len(every)]


_RANK = {TableState.COPYING: 0, TableState.WAITING: 1, TableState.COPIED: 2}


def ordered(tables: Iterable[TableProgress], order: Order) -> list[TableProgress]:
    """`tables` in `order`. Names break ties, so rows stay where they are between two views."""
    match order:
        case Order.STATE:
            return sorted(tables, key=lambda t: (_RANK[t.state], -t.bytes_estimated, t.table))
        case Order.SIZE:
            return sorted(tables, key=lambda t: (-t.bytes_estimated, t.table))
        case Order.NAME:
            return sorted(tables, key=lambda t: t.table)
        case Order.PROGRESS:
            return sorted(tables, key=lambda t: (table_fraction(t), t.table))
