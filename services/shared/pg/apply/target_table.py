"""A destination table as the target of row changes: how its rows are found, and the statements.

Statements are built once for each shape (the operation and the columns it sets) and are prepared by the
session. Values remain the bytes that pgoutput sent. The server reads them as the column's type.

Changes are applied one row at a time (`insert`, `update`, `delete`) or many rows at once (`insert_many` and
others). Then each column is sent as one array, and rows are joined by key. A column whose type cannot be the
element of an array (arrays, composite types, domains) is sent as text and cast.

Rows are found by the replica identity. If that is FULL, the destination's primary key is used instead, if
there is one. Otherwise all columns are compared as text, because json, xml and point have no equality
operator, and for some types (box, numeric) values that are equal by `=` may differ. One of several equal rows
is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from psycopg import sql

from services.shared.model import ErrorKind, PgmigError, ReplicaIdentity, TableId
from services.shared.model.compiled import twin_of
from services.shared.pg.apply import arrays
from services.shared.pg.apply.long_values import LongValue, long_values
from services.shared.pg.apply.target_statements import Given, Shape, TargetStatements, comma_separated
from services.shared.pg.session.encoding import codec_of
from services.shared.pgoutput import UNCHANGED, Value, Values

_compiled = twin_of(arrays)
array: Callable[[Sequence[bytes | None]], bytes] = _compiled.array
_column: Callable[[Sequence[Values], int], bytes] = _compiled.column


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """The text of a statement, which each session that runs it prepares once."""

    text: bytes


class Operation(NamedTuple):
    """A statement with its parameters. rows: how many it must affect; None: any number. key: identifies the
    row of a single-row statement, for an error. long: values to send before it."""

    statement: Statement
    values: tuple[bytes | None, ...]
    table: TableId | None = None
    rows: int | None = None
    key: str = ""
    long: tuple[LongValue, ...] = ()


Key = bytes | tuple[bytes | None, ...] | None


@dataclass(slots=True, eq=False)
class TargetTable(TargetStatements):
    """A table as the target of row changes. Built from a Relation message and the destination's catalog."""

    _shapes: dict[tuple[object, ...], Statement] = field(default_factory=dict)

    @property
    def keyed(self) -> bool:
        return bool(self.where)

    # One row at a time.

    def insert(self, new: Values) -> Operation:
        if UNCHANGED in new:
            raise PgmigError(ErrorKind.CORRUPT, f"an inserted row of {self.table} lacks a value")
        values = new if len(self.inserted) == len(new) else [new[i] for i in self.inserted]
        return self._single(("I", ()), self.inserted, values, None, self._key_text(self.where, new))

    def update(self, old: Values | None, new: Values) -> Operation:
        """old: the old replica identity, if it changed or is FULL."""
        where = self._row_where()
        if self._identities and self._identity_may_change(old, new):
            touched = tuple(i for i in self.inserted if new[i] is not UNCHANGED)
            kind = "R"
        else:
            touched = self._settable(new)
            kind = "U"
        found_by = old if old is not None else new
        values = [new[i] for i in touched] + [found_by[i] for i in where]
        key = self._key_text(where, found_by)
        return self._single((kind, touched), (*touched, *where), values, 1, key)

    def delete(self, old: Values) -> Operation:
        where = self._row_where()
        values = [old[i] for i in where]
        return self._single(("D", ()), where, values, 1, self._key_text(where, old))

    def _single(
        self,
        shape: Shape,
        columns: Sequence[int],
        values: Sequence[Value],
        rows: int | None,
        key: str,
    ) -> Operation:
        """columns: indexes of the columns whose values are given."""
        long: tuple[LongValue, ...] = ()
        found_by: tuple[object, ...] = shape
        if memoryview in map(type, values):
            long = long_values(values, [self.columns[i].element_sql for i in columns], self.encoding)
            stand_ins = {value.parameter: b"%d" % value.parameter for value in long}
            values = [stand_ins.get(n, value) for n, value in enumerate(values)]
            found_by = (*shape, *((value.parameter, value.bytea) for value in long))
        statement = self._shapes.get(found_by)
        if statement is None:
            statement = self._build(found_by, self._single_sql(shape, self._given(long)))
        return Operation(statement, _bytes(values), self.table, rows, key, long)

    def _single_sql(self, shape: Shape, given: Given) -> sql.Composable:
        kind, touched = shape
        if kind == "I":
            return self._insert_sql(given)
        if kind == "D":
            return self._delete_sql(self._row_where(), given)
        build = self._update_sql if kind == "U" else self._replace_sql
        return build(touched, self._row_where(), given)

    # Many rows at once; each row's key is different from those of the others.

    def insert_many(self, rows: Sequence[Values]) -> Operation:
        statement = self._shapes.get(("i",)) or self._build(("i",), self._insert_many_sql())
        return Operation(statement, _arrays(rows, self.inserted), self.table, len(rows))

    def update_many(self, rows: Sequence[Values], touched: tuple[int, ...]) -> Operation:
        """rows: the new rows, all without the same columns (see `touched`)."""
        shape = ("u", touched)
        statement = self._shapes.get(shape) or self._build(shape, self._update_many_sql(touched))
        sent = (*self.where, *touched, *self._free_identities)
        return Operation(statement, _arrays(rows, sent), self.table, len(rows))

    def delete_many(self, keys: Sequence[Key]) -> Operation:
        statement = self._shapes.get(("d",)) or self._build(("d",), self._delete_many_sql())
        columns = [keys] if len(self.where) == 1 else list(zip(*keys, strict=True))
        return Operation(statement, tuple(array(c) for c in columns), self.table, len(keys))  # type: ignore[arg-type]

    def touched(self, new: Values) -> tuple[int, ...]:
        """The columns that an UPDATE to `new` sets, if its key does not change."""
        return tuple(i for i in self._settable(new) if i not in self.where)

    def _identity_may_change(self, old: Values | None, new: Values) -> bool:
        """Whether a GENERATED ALWAYS identity may change: UPDATE t SET id = DEFAULT. If it is not part of the
        old row that was sent, its old value is unknown."""
        full = old is not None and self.relation.replica_identity is ReplicaIdentity.FULL
        for i in self._identities:
            if i not in self.where and not full:
                return True
            if old is not None and old[i] != new[i]:
                return True
        return False

    def _settable(self, new: Values) -> tuple[int, ...]:
        """Columns that were sent, except for those that UPDATE cannot set: GENERATED ALWAYS identities and
        generated columns."""
        return tuple(
            i for i in self.inserted if new[i] is not UNCHANGED and not self.columns[i].identity_always
        )

    def _row_where(self) -> tuple[int, ...]:
        if self.where:
            return self.where
        if self.relation.replica_identity is not ReplicaIdentity.FULL:
            raise PgmigError(
                ErrorKind.NO_REPLICA_IDENTITY,
                f"the source sent an update or delete of {self.table}, which has no replica identity",
                "give the table a primary key or REPLICA IDENTITY FULL on the source",
            )
        return self.inserted  # generated columns are computed from the others

    def key_pairs(self, values: Values) -> tuple[tuple[str, str], ...]:
        """Names and values of the key's columns. Empty if the table has no key."""
        codec = codec_of(self.encoding)
        found = ((self.columns[i].name, values[i]) for i in self.where)
        return tuple((name, bytes(value or b"").decode(codec, "replace")) for name, value in found)  # type: ignore[arg-type]

    def _build(self, shape: tuple[object, ...], text: sql.Composable) -> Statement:
        statement = self._shapes[shape] = Statement(text.as_bytes(None))
        return statement

    def _key_text(self, where: tuple[int, ...], values: Values) -> str:
        """The key for an error message: at most four columns, each value truncated to 40 bytes."""
        shown, codec = [], codec_of(self.encoding)
        for i in where[:4]:
            value = values[i]
            text = "NULL" if value is None else bytes(value[:40]).decode(codec, "replace")  # type: ignore[index]
            shown.append(f"{self.columns[i].name}={text}")
        return ", ".join(shown)


def _bytes(values: Sequence[object]) -> tuple[bytes | None, ...]:
    if UNCHANGED in values:
        raise PgmigError(ErrorKind.CORRUPT, "a key value was not sent")
    return tuple(values)  # type: ignore[arg-type]


def _arrays(rows: Sequence[Values], columns: Sequence[int]) -> tuple[bytes, ...]:
    return tuple(_column(rows, i) for i in columns)


def truncate(
    tables: Sequence[TableId], *, restart_identity: bool, partitioned: Container[TableId] = ()
) -> Operation:
    """Truncate all tables in one statement, because tables that refer to each other can only be truncated
    together. The source lists child tables and tables that CASCADE included, so neither has to be expanded
    here."""
    listed = comma_separated(
        sql.SQL("{}" if t in partitioned else "ONLY {}").format(sql.Identifier(t.schema, t.name))
        for t in tables
    )
    restart = sql.SQL(" RESTART IDENTITY") if restart_identity else sql.SQL("")
    text = sql.SQL("TRUNCATE {}{}").format(listed, restart)
    return Operation(Statement(text.as_bytes(None)), (), tables[0])
