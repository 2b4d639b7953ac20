"""A destination table as the target of row changes: pgoutput values in, statements out.

Statements are built once for each shape (operation and which columns it touches) and are
prepared by the session. Values stay the bytes that pgoutput sent; the server reads them as
the column's type.

Rows are found by the replica identity. Where that is FULL and the destination has no primary
key, all columns are compared as text, because json, xml and point have no equality and some
types' `=` is not identity (box, numeric); one of several equal rows is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, Lsn, PgmigError, TableId
from services.shared.pg.connection import translated
from services.shared.pgoutput import UNCHANGED, Relation, Values

_COLUMNS = """
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attidentity = 'a',
       coalesce(a.attnum = ANY (i.indkey::int2[]), false)
  FROM pg_catalog.pg_attribute a
  LEFT JOIN pg_catalog.pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
 WHERE a.attrelid = pg_catalog.to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """One statement text, prepared once by each session that runs it."""

    text: bytes


class Operation(NamedTuple):
    """A statement with its values. key: names the row it expects, for an error; None when the
    number of rows does not matter."""

    statement: Statement
    values: tuple[bytes | None, ...]
    table: TableId | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class _TargetColumn:
    name: str
    type_sql: str
    identity_always: bool
    primary: bool


@dataclass(slots=True)
class TargetTable:
    """Built from a Relation message and the destination's catalog."""

    relation: Relation
    columns: tuple[_TargetColumn, ...]  # in the relation's order
    has_primary_key: bool
    _shapes: dict[tuple[object, ...], Statement] = field(default_factory=dict)

    @property
    def table(self) -> TableId:
        return self.relation.table

    def insert(self, new: Values) -> Operation:
        statement = self._shapes.get(("I",)) or self._build(("I",), self._insert_sql())
        return Operation(statement, self._sent(new))

    def update(self, old: Values | None, new: Values) -> Operation:
        """old: the replica identity as it was, when it changed or is FULL."""
        by_row = self._by_row(old)
        touched = tuple(
            i for i, value in enumerate(new) if value is not UNCHANGED and not self.columns[i].identity_always
        )
        where = self._where(by_row)
        shape = ("U", touched, where)
        statement = self._shapes.get(shape) or self._build(shape, self._update_sql(touched, where, by_row))
        found_by = old if old is not None else new
        values = [new[i] for i in touched] + [found_by[i] for i in where]
        return Operation(statement, _bytes(values), self.table, self._key(where, found_by))

    def delete(self, old: Values) -> Operation:
        by_row = self._by_row(old)
        where = self._where(by_row)
        shape = ("D", where)
        statement = self._shapes.get(shape) or self._build(shape, self._delete_sql(where, by_row))
        return Operation(statement, _bytes([old[i] for i in where]), self.table, self._key(where, old))

    def _by_row(self, old: Values | None) -> bool:
        """Whether only the whole old row says which row is meant."""
        full = all(column.key for column in self.relation.columns)
        return full and old is not None and not self.has_primary_key

    def _where(self, by_row: bool) -> tuple[int, ...]:
        indexes = range(len(self.columns))
        if by_row:
            return tuple(indexes)
        keys = tuple(i for i in indexes if self.relation.columns[i].key)
        if len(keys) == len(self.columns) and self.has_primary_key:
            return tuple(i for i in indexes if self.columns[i].primary)
        if not keys:
            raise PgmigError(
                ErrorKind.NO_REPLICA_IDENTITY,
                f"the source sent an update or delete of {self.table}, which has no replica identity",
                "give the table a primary key or REPLICA IDENTITY FULL on the source",
            )
        return keys

    def _build(self, shape: tuple[object, ...], text: sql.Composable) -> Statement:
        statement = self._shapes[shape] = Statement(text.as_bytes(None))
        return statement

    def _name(self) -> sql.Identifier:
        return sql.Identifier(self.table.schema, self.table.name)

    def _insert_sql(self) -> sql.Composable:
        if not self.columns:
            return sql.SQL("INSERT INTO {} DEFAULT VALUES").format(self._name())
        names = sql.SQL(", ").join(sql.Identifier(column.name) for column in self.columns)
        slots = sql.SQL(", ").join(sql.SQL(f"${n + 1}") for n in range(len(self.columns)))
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
            self._name(), names, slots
        )

    def _update_sql(self, touched: tuple[int, ...], where: tuple[int, ...], by_row: bool) -> sql.Composable:
        # Nothing to set still has to find its row.
        assignments = [
            sql.SQL("{} = {}").format(sql.Identifier(self.columns[i].name), sql.SQL(f"${n + 1}"))
            for n, i in enumerate(touched)
        ] or [sql.SQL("{0} = {0}").format(sql.Identifier(self.columns[where[0]].name))]
        return sql.SQL("UPDATE ONLY {} SET {} WHERE {}").format(
            self._name(), sql.SQL(", ").join(assignments), self._condition(where, len(touched) + 1, by_row)
        )

    def _delete_sql(self, where: tuple[int, ...], by_row: bool) -> sql.Composable:
        return sql.SQL("DELETE FROM ONLY {} WHERE {}").format(self._name(), self._condition(where, 1, by_row))

    def _condition(self, where: tuple[int, ...], first: int, by_row: bool) -> sql.Composable:
        parts = []
        for n, i in enumerate(where):
            name, slot = sql.Identifier(self.columns[i].name), sql.SQL(f"${first + n}")
            if by_row:
                kind = sql.SQL(self.columns[i].type_sql)
                parts.append(
                    sql.SQL("{}::text IS NOT DISTINCT FROM (CAST({} AS {}))::text").format(name, slot, kind)
                )
            else:
                parts.append(sql.SQL("{} = {}").format(name, slot))
        condition = sql.SQL(" AND ").join(parts)
        if not by_row:
            return condition
        return sql.SQL("ctid = (SELECT ctid FROM ONLY {} WHERE {} LIMIT 1)").format(self._name(), condition)

    def _sent(self, new: Values) -> tuple[bytes | None, ...]:
        if UNCHANGED in new:
            raise PgmigError(ErrorKind.CORRUPT, f"an inserted row of {self.table} lacks a value")
        return _bytes(new)

    def _key(self, where: tuple[int, ...], values: Values) -> str:
        """The key for an error text, each value cut to 40 bytes."""
        shown = []
        for i in where[:4]:
            value = values[i]
            text = value[:40].decode(errors="replace") if isinstance(value, bytes) else "NULL"
            shown.append(f"{self.columns[i].name}={text}")
        return ", ".join(shown)


def _bytes(values: Sequence[object]) -> tuple[bytes | None, ...]:
    for value in values:
        if value is UNCHANGED:
            raise PgmigError(ErrorKind.CORRUPT, "a key value was not sent")
    return tuple(values)  # type: ignore[arg-type]


def truncate(tables: Sequence[TableId], *, restart_identity: bool) -> Operation:
    """All in one statement: tables that refer to each other can only be truncated together.
    The source lists those that CASCADE reached, so it is not repeated here."""
    listed = sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(t.schema, t.name)) for t in tables)
    restart = sql.SQL(" RESTART IDENTITY") if restart_identity else sql.SQL("")
    return Operation(Statement(sql.SQL("TRUNCATE {}{}").format(listed, restart).as_bytes(None)), ())


async def describe_target(conn: AsyncConnection, relation: Relation, lsn: Lsn) -> TargetTable:
    """Match a Relation message with the destination. Raises PgmigError(SCHEMA_DRIFT) with both
    column lists when a published column has no place there."""
    name = sql.Identifier(relation.schema, relation.name).as_string(conn)
    with translated(f"reading the columns of {relation.table} on the destination"):
        rows = await (await conn.execute(_COLUMNS, [name])).fetchall()
    found = {row[0]: _TargetColumn(*row) for row in rows}
    wanted = [column.name for column in relation.columns]
    if not rows and wanted:
        raise PgmigError(
            ErrorKind.SCHEMA_DRIFT,
            f"table {relation.table} does not exist on the destination",
            "create it there as it is on the source, then resume",
            lsn,
        )
    missing = [column for column in wanted if column not in found]
    if missing:
        raise PgmigError(
            ErrorKind.SCHEMA_DRIFT,
            f"table {relation.table} differs: the source has columns ({', '.join(wanted)}), "
            f"the destination ({', '.join(found)}); missing there: {', '.join(missing)}",
            f"add them on the destination (ALTER TABLE {relation.table} ADD COLUMN ...), then resume",
            lsn,
        )
    columns = tuple(found[column] for column in wanted)
    primary = [column for column in found.values() if column.primary]
    return TargetTable(relation, columns, bool(primary) and all(c.name in wanted for c in primary))
