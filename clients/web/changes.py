"""What a client has not got yet of a migration's document.

Each change gets the next sequence number. Every field of the view, every table and every event keeps the
number of the change in which it last changed. So what a client lacks that has everything up to a number can
be computed for any number, without a queue for each client: a slow client gets fewer and larger changes. The
memory that this needs is that of one view.
"""

from __future__ import annotations

from dataclasses import fields

from services.shared.model import Event, MigrationView, TableId, TableProgress
from services.shared.model.view.jsonview import to_json, view_to_json

_APART = frozenset({"tables", "events"})
_FIELDS = tuple(field.name for field in fields(MigrationView) if field.name not in _APART)


class Changes:
    """sequence: of the last change; 0 before the first view."""

    def __init__(self) -> None:
        self.sequence = 0
        self.view: MigrationView | None = None
        self._whole_from = 0  # clients that have less than this need everything
        self._fields: dict[str, int] = {}
        self._tables: dict[TableId, tuple[TableProgress, int]] = {}
        self._events: dict[int, tuple[Event, int]] = {}

    def add(self, view: MigrationView) -> bool:
        """Whether anything has changed."""
        before, number = self.view, self.sequence + 1
        if before == view:
            return False
        self.view, self.sequence = view, number
        tables = {table.table: table for table in view.tables}
        if before is None or before.created_at != view.created_at or self._tables.keys() - tables.keys():
            self._whole_from = number
        for name in _FIELDS:
            if before is None or getattr(before, name) != getattr(view, name):
                self._fields[name] = number
        self._add_tables(tables, number)
        known = self._events if self._whole_from != number else {}
        numbered = {event.number: event for event in view.events if event.number}
        self._events = {key: known.get(key, (event, number)) for key, event in numbered.items()}
        return True

    def _add_tables(self, tables: dict[TableId, TableProgress], number: int) -> None:
        if self._whole_from == number:
            self._tables.clear()
        for name, table in tables.items():
            known = self._tables.get(name)
            if known is None or known[0] != table:
                self._tables[name] = (table, number)

    def touch(self) -> None:
        """Something beside the view has changed."""
        self.sequence += 1

    def whole(self) -> dict[str, object]:
        """Everything. There must be a view."""
        assert self.view is not None
        return view_to_json(self.view)

    def after(self, sequence: int) -> dict[str, object] | None:
        """The fields that have changed since, and of `tables` and `events` only what has changed or is new.
        None if the client needs everything."""
        if self.view is None or not self._whole_from <= sequence <= self.sequence:
            return None
        changed: dict[str, object] = {
            name: to_json(getattr(self.view, name))
            for name, number in self._fields.items()
            if number > sequence
        }
        tables = [to_json(table) for table, number in self._tables.values() if number > sequence]
        events = [to_json(event) for event, number in self._events.values() if number > sequence]
        if tables:
            changed["tables"] = tables
        if events:
            changed["events"] = events
        return changed
