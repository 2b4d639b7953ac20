"""The net effect of changes on each key of a table: what `compact` has not written yet.

The state of a key, relative to the destination's row before:

    INSERT   no row before; values are the new row
    UPDATE   a row before; values are the new version of the row, UNCHANGED if never sent
    DELETE   a row before, none afterwards
    REPLACE  deleted, then inserted: both are written

Changes that a net effect cannot express (a key change without its TOASTed values, a history
that contradicts itself, a large row) are refused. The caller writes them as they are, after the pending
changes. Rows without a key change one at a time, but their inserts may be written together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from services.shared.model import cython
from services.shared.pgoutput import UNCHANGED, Delete, Insert, Update, Values

INSERT, UPDATE, DELETE, REPLACE = range(4)

Key = bytes | tuple[bytes | None, ...] | None
Change = Insert | Update | Delete
Missing = tuple[int, ...]
"""Indexes of the columns whose values were never sent."""


class Net(NamedTuple):
    """In the order in which they must be written. deletes: keys, with the sent part of the row.
    updates: new versions of rows, by the columns that they omit. inserts: rows."""

    deletes: list[tuple[Key, Values]]
    updates: dict[Missing, list[Values]]
    inserts: list[Values]


if not cython.compiled:

    def _field(change: Change, i: int) -> Any:
        return change[i]

    def _lacks(values: Values) -> bool:
        return UNCHANGED in values


class Pending:
    """Pending changes of one table. where: indexes of the columns that find a row; empty if rows have no
    key. alone: every change must be written separately."""

    def __init__(self, where: tuple[int, ...], *, alone: bool = False) -> None:
        self._where = where
        self._first = where[0] if len(where) == 1 else -1  # its only column
        self._alone = alone
        self._rows: dict[Key, tuple[int, Values]] = {}
        self._keyless: list[Values] = []

    def add(self, change: Change) -> bool:
        """Merge the change; False if it must be written separately, after the pending changes."""
        if self._alone:
            return False
        kind = type(change)
        if kind is Insert:
            return self._insert(_field(change, 1) if cython.compiled else change.new)  # type: ignore[union-attr]
        if not self._where:
            return False
        if kind is Update:
            if cython.compiled:
                old, new = _field(change, 2), _field(change, 3)
            else:
                old, new = change.old, change.new  # type: ignore[union-attr]
            return self._update(old, new)
        if kind is Delete:
            return self._delete(_field(change, 2) if cython.compiled else change.old)  # type: ignore[union-attr,arg-type]
        return False

    def _key(self, values: Values) -> Key:
        if self._first >= 0:
            return values[self._first]  # type: ignore[return-value]
        return tuple([values[i] for i in self._where])  # type: ignore[misc]

    def _insert(self, new: Values) -> bool:
        if not self._where:
            self._keyless.append(new)
            return True
        key = self._key(new)
        before = self._rows.get(key)
        if before is None:
            self._rows[key] = (INSERT, new)
        elif before[0] == DELETE:
            self._rows[key] = (REPLACE, new)
        else:
            return False
        return True

    def _update(self, old: Values | None, new: Values) -> bool:
        key = self._key(new)
        if old is not None:
            old_key = self._key(old)
            if old_key != key:
                return self._move(old_key, key, new)
        before = self._rows.get(key)
        if before is None:
            self._rows[key] = (UPDATE, new)
        elif before[0] == DELETE:
            return False
        else:
            self._rows[key] = (before[0], _merged(before[1], new))
        return True

    def _delete(self, old: Values) -> bool:
        key = self._key(old)
        before = self._rows.get(key)
        if before is None or before[0] == UPDATE or before[0] == REPLACE:
            self._rows[key] = (DELETE, old)
        elif before[0] == INSERT:
            del self._rows[key]
        else:
            return False
        return True

    def _move(self, before: Key, key: Key, new: Values) -> bool:
        """A key change. A row that was inserted here gets the other key. A row that existed before is
        written separately, since only an UPDATE keeps the values that were not sent."""
        held = self._rows.get(before)
        if held is None or held[0] != INSERT or key in self._rows:
            return False
        del self._rows[before]
        self._rows[key] = (INSERT, _merged(held[1], new))
        return True

    def take(self) -> Net:
        """The pending changes; nothing is pending afterwards."""
        deletes: list[tuple[Key, Values]] = []
        updates: dict[Missing, list[Values]] = {}
        inserts = self._keyless
        for key, (kind, values) in self._rows.items():
            if kind == UPDATE:
                missing = _missing(values)
                same = updates.get(missing)
                if same is None:
                    same = updates[missing] = []
                same.append(values)
            elif kind == INSERT:
                inserts.append(values)
            else:
                deletes.append((key, values))
                if kind == REPLACE:
                    inserts.append(values)
        self._rows, self._keyless = {}, []
        return Net(deletes, updates, inserts)


def merge(steps: Sequence[Any], start: int, pending: Mapping[Any, Pending]) -> int:
    """Merge the (target, change) steps from `start` on into the pending changes of their targets.
    Returns the position of the first step that could not be merged: its target is not in
    `pending`, it must be written separately, or it is not a row change."""
    for at in range(start, len(steps)):
        step = steps[at]
        if type(step) is not tuple:
            return at
        table = pending.get(step[0])
        if table is None or not table.add(step[1]):
            return at
    return len(steps)


def _missing(values: Values) -> Missing:
    if not (_lacks(values) if cython.compiled else UNCHANGED in values):
        return ()
    return tuple([i for i, value in enumerate(values) if value is UNCHANGED])


def _merged(before: Values, after: Values) -> Values:
    """`after`, with values that were not sent replaced by those of `before`."""
    if not (_lacks(after) if cython.compiled else UNCHANGED in after):
        return after
    return tuple([old if new is UNCHANGED else new for old, new in zip(before, after, strict=True)])
