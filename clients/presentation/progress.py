"""Sums over the figures of a view: overall progress, and the order of tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.shared.model import MigrationView, TableProgress, TableState


def table_bytes(table: TableProgress) -> int:
    """Bytes done, in the unit of the estimate. COPY's bytes differ from the heap's, so a copied table
    counts as its full estimate, and a table that is being copied never counts as more than that."""
    if table.state is TableState.COPIED:
        return table.bytes_estimated
    return min(table.bytes_copied, table.bytes_estimated)


def table_fraction(table: TableProgress) -> float:
    """0 to 1. A table of unknown size has 0 until it is copied."""
    if table.state is TableState.COPIED:
        return 1.0
    if table.bytes_estimated <= 0:
        return 0.0
    return min(0.999, table_bytes(table) / table.bytes_estimated)


def copied_bytes(tables: Iterable[TableProgress]) -> int:
    return sum(table_bytes(table) for table in tables)


@dataclass(frozen=True, slots=True)
class Overall:
    """Numbers of tables. bytes_done and bytes_total are in the unit of the estimate."""

    tables: int
    copied: int
    copying: int
    bytes_done: int
    bytes_total: int

    @property
    def fraction(self) -> float:
        """By bytes, or by tables if no size is known. 1 only when every table is copied."""
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


def lag_known(view: MigrationView) -> bool:
    """Whether the lag has a meaning, because something has been applied or is being applied."""
    return view.options.follow and bool(view.positions.applied_lsn)


class Order(StrEnum):
    """How tables are listed. The value is the text for the operator."""

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
    """`tables` in `order`. Equal tables are ordered by name, so that rows do not move between two views."""
    match order:
        case Order.STATE:
            return sorted(tables, key=lambda t: (_RANK[t.state], -t.bytes_estimated, t.table))
        case Order.SIZE:
            return sorted(tables, key=lambda t: (-t.bytes_estimated, t.table))
        case Order.NAME:
            return sorted(tables, key=lambda t: t.table)
        case Order.PROGRESS:
            return sorted(tables, key=lambda t: (table_fraction(t), t.table))
