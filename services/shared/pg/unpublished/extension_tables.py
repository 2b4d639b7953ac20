"""Configuration tables of extensions: the rows that a dump would contain.

CREATE EXTENSION creates such a table with its own rows. The user's rows are those that match the extension's
condition (pg_extension.extcondition; none: all rows). They are replaced as a whole, because they are few, and
because no row of the destination's own extension script may remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import AsyncConnection, sql

from services.shared.model import TableId
from services.shared.pg.session.connection import translated
from services.shared.pg.session.encoding import copy_options
from services.shared.pg.session.sql_files import load_sql_for


@dataclass(frozen=True, slots=True)
class ExtensionTable:
    """condition: " WHERE ..." as in the extension's script; "" for all rows. lockable: the role may lock the
    table against writers."""

    table: TableId
    condition: LiteralString
    columns: tuple[str, ...]
    lockable: bool


async def list_extension_tables(conn: AsyncConnection) -> tuple[ExtensionTable, ...]:
    """Those of the connected database, extension by extension."""
    with translated("looking for configuration tables of extensions"):
        query = load_sql_for("unpublished/extension_tables.sql", conn.info.server_version)
        cursor = await conn.execute(query)
        return tuple(
            [ExtensionTable(TableId(row[0], row[1]), row[2], tuple(row[3]), row[4]) async for row in cursor]
        )


async def copy_extension_tables(
    source: AsyncConnection, destination: AsyncConnection, tables: Sequence[ExtensionTable]
) -> tuple[int, tuple[TableId, ...]]:
    """Replace the destination's rows with the source's. Returns the number of rows, and the tables that the
    destination's version of the extension does not have. Triggers and keys do not act: see `silence`.
    """
    there = {table.table for table in await list_extension_tables(destination)}
    rows = 0
    with translated("copying configuration tables of extensions"):
        async with destination.transaction():
            for table in tables:
                if table.table in there:
                    rows += await _replace(source, destination, table)
    return rows, tuple(table.table for table in tables if table.table not in there)


async def _replace(source: AsyncConnection, destination: AsyncConnection, table: ExtensionTable) -> int:
    name = sql.Identifier(table.table.schema, table.table.name)
    condition = sql.SQL(table.condition)  # the extension's own SQL, as pg_dump uses it
    columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    given = copy_options(destination)
    await destination.execute(sql.SQL("DELETE FROM ONLY {} {}").format(name, condition))
    options = sql.SQL("WITH ({})" if given else "").format(*map(sql.SQL, given))
    read = sql.SQL("COPY (SELECT {} FROM ONLY {} {}) TO STDOUT {}").format(columns, name, condition, options)
    write = sql.SQL("COPY {} ({}) FROM STDIN {}").format(name, columns, options)
    cursor = destination.cursor()
    async with source.cursor().copy(read) as rows, cursor.copy(write) as written:
        async for data in rows:
            await written.write(data)
    return cursor.rowcount
