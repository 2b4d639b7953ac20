"""Progress of the copy, by table: what the ledger says is done, and what copiers report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from services.coordinator.parts import part_id
from services.coordinator.rates import Totals
from services.coordinator.record import TableRecord
from services.shared.model import (
    Lsn,
    PartDone,
    PartProgress,
    SourceTable,
    TableId,
    TableProgress,
    TableState,
)

Ledger = Mapping[str, tuple[Lsn, int, int]]
"""Part id to snapshot LSN, rows and bytes, as services.shared.pg.bookkeeping reads it."""


class CopyProgress:
    def __init__(self, tables: Iterable[TableRecord]) -> None:
        self._tables = {part_id(table.table): table for table in tables}
        self._running: dict[str, tuple[int, int]] = {}

    def records(self) -> tuple[TableRecord, ...]:
        return tuple(self._tables.values())

    def plan(self, tables: Iterable[SourceTable]) -> None:
        """Take the list of tables; what is known of their copies stays."""
        known = self._tables
        self._tables = {}
        for table in tables:
            key = part_id(table.table)
            record = known.get(key, TableRecord(table.table))
            self._tables[key] = replace(
                record, rows_estimated=table.rows_estimated, bytes_estimated=table.bytes_estimated
            )

    def settle(self, ledger: Ledger, slot_lsn: Lsn) -> None:
        """Make it what the ledger says. slot_lsn: a later snapshot leaves a floor."""
        self._running.clear()
        for key, record in self._tables.items():
            if key not in ledger:
                self._tables[key] = replace(record, copied=False, rows=0, bytes=0, floor=Lsn(0))
                continue
            lsn, rows, size = ledger[key]
            floor = lsn if lsn > slot_lsn else Lsn(0)
            self._tables[key] = replace(record, copied=True, rows=rows, bytes=size, floor=floor)

    def report(self, report: PartProgress | PartDone) -> None:
        record = self._tables.get(report.part_id)
        if record is None or record.copied:
            return
        if isinstance(report, PartProgress):
            self._running[report.part_id] = (report.rows, report.bytes)
            return
        self._running.pop(report.part_id, None)
        self._tables[report.part_id] = replace(record, copied=True, rows=report.rows, bytes=report.bytes)

    @property
    def complete(self) -> bool:
        return all(table.copied for table in self._tables.values())

    def missing(self) -> tuple[TableId, ...]:
        return tuple(table.table for table in self._tables.values() if not table.copied)

    def floors(self) -> tuple[tuple[TableId, Lsn], ...]:
        return tuple((table.table, table.floor) for table in self._tables.values() if table.floor)

    def totals(self) -> Totals:
        done = [table for table in self._tables.values() if table.copied]
        rows = sum(table.rows for table in done) + sum(rows for rows, _ in self._running.values())
        size = sum(table.bytes for table in done) + sum(size for _, size in self._running.values())
        return Totals(rows, size)

    def tables(self) -> tuple[TableProgress, ...]:
        return tuple(self._progress(key, table) for key, table in self._tables.items())

    def _progress(self, key: str, table: TableRecord) -> TableProgress:
        rows, size = self._running.get(key, (table.rows, table.bytes))
        state = TableState.WAITING
        if table.copied:
            state = TableState.COPIED
        elif key in self._running:
            state = TableState.COPYING
        return TableProgress(table.table, state, table.rows_estimated, rows, table.bytes_estimated, size)
