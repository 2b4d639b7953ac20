"""Progress of the copy, by table: the parts that the ledger lists as copied, and the copiers' reports."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace

from services.coordinator.migration.copy_parts import copied_by_table, part_id, table_key
from services.coordinator.migration.rates import Totals
from services.coordinator.migration.record import TableRecord
from services.shared.model import (
    CopyPlan,
    Lsn,
    PartDone,
    PartProgress,
    SourceTable,
    TableId,
    TableProgress,
    TableState,
)
from services.shared.pg.bookkeeping.copy_ledger import CopyLedger


@dataclass(slots=True)
class _Parts:
    """Parts of one table. of: number of parts. done, running: part id to rows and bytes."""

    of: int = 1
    done: dict[str, tuple[int, int]] = field(default_factory=dict)
    running: dict[str, tuple[int, int]] = field(default_factory=dict)

    def totals(self) -> tuple[int, int]:
        if not (self.done or self.running):
            return 0, 0
        both = (*self.done.values(), *self.running.values())
        return sum(rows for rows, _ in both), sum(size for _, size in both)


class CopyProgress:
    """copied: the completely copied tables. turned: the tables that entered or left `copied`, in order."""

    def __init__(self, tables: Iterable[TableRecord]) -> None:
        self.copied: set[TableId] = set()
        self.turned: list[TableId] = []
        self._tables: dict[str, TableRecord] = {}
        self._parts: dict[str, _Parts] = {}
        for table in tables:
            self._put(part_id(table.table), table, _Parts())

    def _put(self, key: str, record: TableRecord, parts: _Parts) -> None:
        self._tables[key], self._parts[key] = record, parts
        self._turn(record.table, copied=record.copied)

    def _turn(self, table: TableId, *, copied: bool) -> None:
        if copied != (table in self.copied):
            (self.copied.add if copied else self.copied.remove)(table)
            self.turned.append(table)

    def records(self) -> tuple[TableRecord, ...]:
        return tuple(self._tables.values())

    def plan(self, tables: Iterable[SourceTable]) -> None:
        """Replace the list of tables. Progress of tables that were in the list already is kept."""
        known, parts = self._tables, self._parts
        self._tables, self._parts = {}, {}
        for table in tables:
            key = part_id(table.table)
            record = known.pop(key, TableRecord(table.table))
            estimated = replace(
                record, rows_estimated=table.rows_estimated, bytes_estimated=table.bytes_estimated
            )
            self._put(key, estimated, parts.get(key, _Parts()))
        for record in known.values():  # no longer in the list
            self._turn(record.table, copied=False)

    def add(self, tables: Iterable[TableId]) -> None:
        """Add tables as not copied. Tables that are in the list already lose their progress."""
        for table in tables:
            self._put(part_id(table), TableRecord(table), _Parts())

    def estimate(self, tables: Iterable[SourceTable]) -> None:
        """Set the estimated sizes of listed tables that have none."""
        for table in tables:
            record = self._tables.get(part_id(table.table))
            if record is not None and not (record.rows_estimated or record.bytes_estimated):
                self._tables[part_id(table.table)] = replace(
                    record, rows_estimated=table.rows_estimated, bytes_estimated=table.bytes_estimated
                )

    def forget(self, tables: Iterable[TableId]) -> None:
        """Remove tables from the list."""
        for table in tables:
            key = part_id(table)
            self._turn(table, copied=False)
            self._tables.pop(key, None)
            self._parts.pop(key, None)

    def cut(self, plans: Iterable[CopyPlan]) -> None:
        """Set the number of parts from plans that have just begun. No part of them is copied yet."""
        for plan in plans:
            self._parts[part_id(plan.table)] = _Parts(len(plan.split.ranges()))

    def settle(self, ledger: CopyLedger, slot_lsn: Lsn) -> None:
        """Set the progress of all tables to what the ledger says. slot_lsn: a table that was copied under a
        later snapshot gets that snapshot's LSN as its floor."""
        self.cut(ledger.plans.values())
        copied = copied_by_table(ledger)
        for key, record in list(self._tables.items()):
            entries, parts = copied.get(key, {}), self._parts[key]
            parts.running.clear()
            parts.done = {part: (entry.rows, entry.bytes) for part, entry in entries.items()}
            lsn = max((entry.snapshot_lsn for entry in entries.values()), default=Lsn(0))
            self._sum_up(key, record, lsn if lsn > slot_lsn else Lsn(0))

    def _sum_up(self, key: str, record: TableRecord, floor: Lsn) -> None:
        parts = self._parts[key]
        copied = len(parts.done) >= parts.of
        rows = sum(rows for rows, _ in parts.done.values())
        size = sum(size for _, size in parts.done.values())
        floor = floor if copied else Lsn(0)
        self._put(key, replace(record, copied=copied, rows=rows, bytes=size, floor=floor), parts)

    def table_of(self, part: str) -> TableId | None:
        """The table that a part belongs to; None for a table that is not copied."""
        record = self._tables.get(table_key(part))
        return record.table if record is not None else None

    def report(self, report: PartProgress | PartDone) -> None:
        key = table_key(report.part_id)
        record = self._tables.get(key)
        if record is None or record.copied:
            return
        parts = self._parts[key]
        if isinstance(report, PartProgress):
            if report.part_id not in parts.done:
                parts.running[report.part_id] = (report.rows, report.bytes)
            return
        parts.running.pop(report.part_id, None)
        parts.done[report.part_id] = (report.rows, report.bytes)
        self._sum_up(key, record, record.floor)

    @property
    def complete(self) -> bool:
        return len(self.copied) == len(self._tables)

    def missing(self) -> tuple[TableId, ...]:
        return tuple(table.table for table in self._tables.values() if not table.copied)

    def missing_parts(self, *, but: Container[TableId] = ()) -> int:
        """Number of parts that are not known to be copied. Parts of the tables in `but` do not count."""
        missing = [(key, table) for key, table in self._tables.items() if not table.copied]
        parts = (self._parts[key] for key, table in missing if table.table not in but)
        return sum(one.of - len(one.done) for one in parts)

    def floors(self) -> tuple[tuple[TableId, Lsn], ...]:
        return tuple((table.table, table.floor) for table in self._tables.values() if table.floor)

    def totals(self) -> Totals:
        rows = size = 0
        for key, table in self._tables.items():
            more = (table.rows, table.bytes) if table.copied else self._parts[key].totals()
            rows, size = rows + more[0], size + more[1]
        return Totals(rows, size)

    def tables(self) -> tuple[TableProgress, ...]:
        return tuple(self._progress(key, table) for key, table in self._tables.items())

    def _progress(self, key: str, table: TableRecord) -> TableProgress:
        parts = self._parts[key]
        rows, size = table.rows, table.bytes
        state = TableState.COPIED if table.copied else TableState.WAITING
        if not table.copied and (parts.done or parts.running):
            state = TableState.COPYING
            rows, size = parts.totals()
        return TableProgress(table.table, state, table.rows_estimated, rows, table.bytes_estimated, size)
