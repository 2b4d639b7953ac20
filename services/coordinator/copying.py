"""Progress of the copy, by table: what the ledger says is done, and what copiers report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from services.coordinator.parts import copied_by_table, part_id, table_key
from services.coordinator.rates import Totals
from services.coordinator.record import TableRecord
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
from services.shared.pg.copy_ledger import CopyLedger


@dataclass(slots=True)
class _Parts:
    """Of one table. of: how many there are. done, running: part id to rows and bytes."""

    of: int = 1
    done: dict[str, tuple[int, int]] = field(default_factory=dict)
    running: dict[str, tuple[int, int]] = field(default_factory=dict)

    def totals(self) -> tuple[int, int]:
        both = (*self.done.values(), *self.running.values())
        return sum(rows for rows, _ in both), sum(size for _, size in both)


class CopyProgress:
    def __init__(self, tables: Iterable[TableRecord]) -> None:
        self._tables = {part_id(table.table): table for table in tables}
        self._parts = {key: _Parts() for key in self._tables}

    def records(self) -> tuple[TableRecord, ...]:
        return tuple(self._tables.values())

    def plan(self, tables: Iterable[SourceTable]) -> None:
        """Take the list of tables; what is known of their copies stays."""
        known, parts = self._tables, self._parts
        self._tables, self._parts = {}, {}
        for table in tables:
            key = part_id(table.table)
            record = known.get(key, TableRecord(table.table))
            self._tables[key] = replace(
                record, rows_estimated=table.rows_estimated, bytes_estimated=table.bytes_estimated
            )
            self._parts[key] = parts.get(key, _Parts())

    def cut(self, plans: Iterable[CopyPlan]) -> None:
        """Take plans that have just begun."""
        for plan in plans:
            self._parts[part_id(plan.table)] = _Parts(len(plan.split.ranges()))

    def settle(self, ledger: CopyLedger, slot_lsn: Lsn) -> None:
        """Make it what the ledger says. slot_lsn: a later snapshot leaves a floor."""
        self.cut(ledger.plans.values())
        copied = copied_by_table(ledger)
        for key, record in self._tables.items():
            entries, parts = copied.get(key, {}), self._parts[key]
            parts.running.clear()
            parts.done = {part: (entry.rows, entry.bytes) for part, entry in entries.items()}
            lsn = max((entry.snapshot_lsn for entry in entries.values()), default=Lsn(0))
            self._tables[key] = self._summed(record, lsn if lsn > slot_lsn else Lsn(0))

    def _summed(self, record: TableRecord, floor: Lsn) -> TableRecord:
        parts = self._parts[part_id(record.table)]
        copied = len(parts.done) >= parts.of
        rows = sum(rows for rows, _ in parts.done.values())
        size = sum(size for _, size in parts.done.values())
        return replace(record, copied=copied, rows=rows, bytes=size, floor=floor if copied else Lsn(0))

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
        self._tables[key] = self._summed(record, record.floor)

    @property
    def complete(self) -> bool:
        return all(table.copied for table in self._tables.values())

    def missing(self) -> tuple[TableId, ...]:
        return tuple(table.table for table in self._tables.values() if not table.copied)

    def missing_parts(self) -> int:
        """Parts that are not known to be copied."""
        parts = (self._parts[key] for key, table in self._tables.items() if not table.copied)
        return sum(one.of - len(one.done) for one in parts)

    def floors(self) -> tuple[tuple[TableId, Lsn], ...]:
        return tuple((table.table, table.floor) for table in self._tables.values() if table.floor)

    def totals(self) -> Totals:
        progress = [self._progress(key, table) for key, table in self._tables.items()]
        return Totals(
            sum(table.rows_copied for table in progress), sum(table.bytes_copied for table in progress)
        )

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
