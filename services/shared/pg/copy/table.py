"""The copied table, on either side: facts that its copy needs, and how to empty it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection, sql

from services.shared.model import TableId
from services.shared.pg.session.pipelined import answers

_DESCRIBE = """
    SELECT c.relkind = 'p',
           (c.relhastriggers OR c.relkind = 'p')  -- else, as TRUNCATE knows too, nothing refers to it
           AND EXISTS (SELECT FROM pg_catalog.pg_constraint AS k
                       WHERE k.contype = 'f' AND k.conrelid <> k.confrelid AND k.confrelid = c.oid),
           ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
           ARRAY(SELECT a.atttypid::pg_catalog.int8 FROM pg_catalog.pg_attribute AS a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
           ARRAY(SELECT a.attnum FROM pg_catalog.pg_attribute AS a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
           c.oid::pg_catalog.int8,
           c.relfilenode::pg_catalog.int8
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = {} AND c.relname = {}"""
_END_SESSIONS = """
    SELECT pg_catalog.pg_terminate_backend(a.pid)
    FROM pg_catalog.pg_locks AS l
    JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
    JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE l.locktype = 'relation' AND a.datname = pg_catalog.current_database()
      AND n.nspname = %s AND c.relname = %s
      AND a.usename = CURRENT_USER AND a.application_name = 'pgmig destination'
      AND a.pid <> pg_catalog.pg_backend_pid()"""


def table_name(table: TableId) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)


@dataclass(frozen=True, slots=True)
class Described:
    """A table of either side, in the transaction's snapshot.

    referenced: by a foreign key of another table. types: OIDs by column. numbers: pg_attribute.attnum by
    column. file: pg_class.relfilenode. oid and file are 0 for a table that does not exist.
    """

    partitioned: bool = False
    referenced: bool = False
    types: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    oid: int = 0
    file: int = 0


def describe(table: TableId) -> sql.Composed:
    """The query for `described`."""
    return sql.SQL(_DESCRIBE).format(sql.Literal(table.schema), sql.Literal(table.name))


def described(found: Sequence[tuple[Any, ...]]) -> Described:
    """A table that does not exist gives an empty result. Its next use raises the server's error."""
    if not found:
        return Described()
    ((partitioned, referenced, names, types, numbers, oid, file),) = found
    by_name = dict(zip(names, types, strict=True)), dict(zip(names, numbers, strict=True))
    return Described(partitioned, referenced, *by_name, oid, file)


async def empty(conn: AsyncConnection, table: TableId, kind: Described) -> bool:
    """Remove the table's rows within the caller's transaction. Returns whether TRUNCATE was used. PostgreSQL
    refuses TRUNCATE for a table that a foreign key refers to. Tables that pgmig created have no foreign keys
    yet, but tables of a destination with its own schema may. Of an inheritance parent, only its own rows are
    removed. Of a table that is partitioned here, all rows are removed, although it may be an ordinary table
    on the source."""
    form = "DELETE FROM {}{}" if kind.referenced else "TRUNCATE {}{}"
    if kind.referenced:  # otherwise ON DELETE CASCADE would empty tables that keep their rows
        await conn.execute("SET LOCAL session_replication_role = replica")
    only = sql.SQL("" if kind.partitioned else "ONLY ")
    await conn.execute(sql.SQL(form).format(only, table_name(table)))
    return not kind.referenced


async def empty_for_parts(conn: AsyncConnection, tables: Iterable[TableId]) -> None:
    """Empty tables that will be copied in several parts, within the caller's transaction, which also gives
    them new plans. A copier that lost its connection to the coordinator may still copy with an old plan, and
    would block this. So its session is terminated."""
    for table in tables:
        await conn.execute(_END_SESSIONS, [table.schema, table.name])
        (found,) = await answers(conn, describe(table))
        await empty(conn, table, described(found))
