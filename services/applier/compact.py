"""Row changes in order, fewest statements with the same outcome (rule 13). A pure function.

Per keyed table only the net effect of the changes on each key is written: deletes, then updates,
then inserts. Foreign keys and ordinary triggers are off in the applier's session, so the order
between tables does not matter; TRUNCATE is a barrier for all of them.

What one key went through, relative to the destination's row before:

    INSERT   no row before; values are the new row
    UPDATE   a row before; values are the row as it becomes, UNCHANGED where never sent
    DELETE   a row before, none afterwards
    REPLACE  deleted, then inserted: both are written

Changes that a net effect cannot express (a key change that left TOASTed values out, a history
that contradicts itself) are written as they are, after what was pending for their table. Rows
without a key change one at a time; their inserts may still be written together.

When a set of rows meets a constraint that single steps would not (unique keys that swap), or
a row is missing, the writer rolls back and is `careful` with that table for a while.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import NamedTuple

from services.shared.model import TableId
from services.shared.pg.target import Key, Operation, TargetTable, truncate
from services.shared.pgoutput import UNCHANGED, Delete, Insert, Update, Values

INSERT, UPDATE, DELETE, REPLACE = "IUDR"
FEW = 3
"""Fewer rows than this are written by single-row statements, which plan and run cheaper."""


class Truncation(NamedTuple):
    """partitioned: those of the tables that are, on the destination."""

    tables: tuple[TableId, ...]
    restart_identity: bool
    partitioned: frozenset[TableId] = frozenset()


Change = Insert | Update | Delete
Step = tuple[TargetTable, Change] | Truncation


def single(target: TargetTable, change: Change) -> Operation:
    """The change as it happened."""
    if isinstance(change, Insert):
        return target.insert(change.new)
    if isinstance(change, Delete):
        return target.delete(change.old)
    return target.update(change.old, change.new)


def row_by_row(steps: Iterable[Step]) -> list[Operation]:
    """Every step as it happened, in order."""
    return [_truncate(step) if isinstance(step, Truncation) else single(*step) for step in steps]


def _truncate(step: Truncation) -> Operation:
    return truncate(step.tables, restart_identity=step.restart_identity, partitioned=step.partitioned)


def compact(steps: Iterable[Step], careful: Container[TableId] = ()) -> list[Operation]:
    """Statements with the same outcome as `row_by_row(steps)`. careful: tables whose changes are
    written as they happened all the same."""
    operations: list[Operation] = []
    pending: dict[TargetTable, _Pending] = {}
    for step in steps:
        if isinstance(step, Truncation):
            for held in pending.values():
                operations += held.take()
            operations.append(_truncate(step))
            continue
        target, change = step
        table = pending.get(target)
        if table is None:
            table = pending[target] = _Pending(target, target.row_by_row or target.table in careful)
        if not table.add(change):
            operations += table.take()
            if not table.add(change):
                operations.append(single(target, change))
    for held in pending.values():
        operations += held.take()
    return operations


class _Pending:
    """What one table still has to be told."""

    def __init__(self, target: TargetTable, row_by_row: bool) -> None:
        self._target = target
        self._row_by_row = row_by_row
        self._key_of = target.key_of
        self._keyed = bool(target.where) and not row_by_row
        self._rows: dict[Key, tuple[str, Values]] = {}
        self._keyless: list[Values] = []

    def add(self, change: Change) -> bool:
        """Merge the change; False if it must be written by itself, after what is pending."""
        if not self._keyed:
            if self._row_by_row or not isinstance(change, Insert):
                return False
            self._keyless.append(change.new)
            return True
        if isinstance(change, Update):
            key = self._key_of(change.new)
            if change.old is not None and (before := self._key_of(change.old)) != key:
                return self._move(before, key, change.new)
            return self._update(key, change.new)
        if isinstance(change, Insert):
            return self._insert(self._key_of(change.new), change.new)
        return self._delete(self._key_of(change.old), change.old)

    def _update(self, key: Key, new: Values) -> bool:
        before = self._rows.get(key)
        if before is None:
            self._rows[key] = (UPDATE, new)
            return True
        if before[0] == DELETE:
            return False
        self._rows[key] = (before[0], _merged(before[1], new))
        return True

    def _insert(self, key: Key, new: Values) -> bool:
        before = self._rows.get(key)
        if before is None:
            self._rows[key] = (INSERT, new)
        elif before[0] == DELETE:
            self._rows[key] = (REPLACE, new)
        else:
            return False
        return True

    def _delete(self, key: Key, old: Values) -> bool:
        before = self._rows.get(key)
        if before is None or before[0] in (UPDATE, REPLACE):
            self._rows[key] = (DELETE, old)
        elif before[0] == INSERT:
            del self._rows[key]
        else:
            return False
        return True

    def _move(self, before: Key, key: Key, new: Values) -> bool:
        """A key change. A row that was inserted here simply has the other key; one that stood
        before is written by itself, since only an UPDATE keeps what was not sent."""
        held = self._rows.get(before)
        if held is None or held[0] != INSERT or key in self._rows:
            return False
        del self._rows[before]
        self._rows[key] = (INSERT, _merged(held[1], new))
        return True

    def take(self) -> list[Operation]:
        """Statements for what is pending; nothing is pending afterwards."""
        target = self._target
        deletes: list[tuple[Key, Values]] = []
        updates: dict[tuple[int, ...], list[Values]] = {}
        inserts = self._keyless
        for key, (kind, values) in self._rows.items():
            if kind == UPDATE:
                updates.setdefault(target.touched(values), []).append(values)
            elif kind == INSERT:
                inserts.append(values)
            else:
                deletes.append((key, values))
                if kind == REPLACE:
                    inserts.append(values)
        self._rows, self._keyless = {}, []
        operations: list[Operation] = []
        if len(deletes) < FEW:
            operations += [target.delete(row) for _, row in deletes]
        else:
            operations.append(target.delete_many([key for key, _ in deletes]))
        for touched, rows in updates.items():
            if len(rows) < FEW:
                operations += [target.update(None, row) for row in rows]
            else:
                operations.append(target.update_many(rows, touched))
        if len(inserts) < FEW or not target.columns:
            operations += [target.insert(row) for row in inserts]
        else:
            operations.append(target.insert_many(inserts))
        return operations


def _merged(before: Values, after: Values) -> Values:
    """`after`, with the values that were not sent taken from `before`."""
    if UNCHANGED not in after:
        return after
    return tuple(old if new is UNCHANGED else new for old, new in zip(before, after, strict=True))
