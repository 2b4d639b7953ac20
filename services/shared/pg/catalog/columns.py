"""The columns of tables as they are now on one server, and their definitions in SQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, sql

from services.shared.model import TableId
from services.shared.pg.catalog.stored_text import decoded, encoding_to_read
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql_for

GENERATED = {"s": "STORED", "v": "VIRTUAL"}
IDENTITY = {"a": "ALWAYS", "d": "BY DEFAULT"}


@dataclass(frozen=True, slots=True)
class ColumnDefinition:
    """A column as it is now on one server.

    type_sql: the declared type. collation: "" for the type's default collation. default: expression of the
    default or of a generated column, "" if there is none. generated, identity: attgenerated, attidentity.
    missing: the value in rows that are older than the column; None: NULL, or there are no such rows. default,
    missing: as from `stored_text.decoded`.
    """

    number: int
    name: str
    type_name: str
    typmod: int
    type_sql: str
    collation: str
    not_null: bool
    default: str
    generated: str
    identity: str
    missing: str | None


Definitions = Mapping[TableId, tuple[ColumnDefinition, ...]]
"""Columns by table. A table that does not exist has no entry."""


async def read_columns(conn: AsyncConnection, tables: Collection[TableId]) -> Definitions:
    """Definitions of the columns of those of `tables` that exist."""
    found: dict[TableId, list[ColumnDefinition]] = {}
    encoding = encoding_to_read(conn)
    given = {
        "schemas": [t.schema for t in tables],
        "names": [t.name for t in tables],
        "encoding": encoding,
    }
    with translated("reading the columns of tables"):
        query = load_sql_for("catalog/sql/table_columns.sql", conn.info.server_version)
        cursor = await conn.execute(query, given)
        async for schema, name, *column in cursor:
            columns = found.setdefault(TableId(schema, name), [])
            if column[0] is not None:
                columns.append(_definition(column, encoding))
    return {table: tuple(columns) for table, columns in found.items()}


def _definition(row: Sequence[Any], encoding: str) -> ColumnDefinition:
    """Expressions and values arrive as bytes, because some have no equivalent in UTF-8."""
    texts: list[Any] = [decoded(one, encoding) if isinstance(one, bytes) else one for one in row]
    return ColumnDefinition(*texts)


def defined(column: ColumnDefinition) -> sql.Composable:
    """The column's definition for CREATE TABLE."""
    name = sql.Identifier(column.name)
    parts: list[sql.Composable] = [name, sql.SQL(column.type_sql)]
    if column.collation:
        parts.append(sql.SQL("COLLATE {}").format(sql.Identifier(column.collation)))
    if column.generated:
        parts.append(sql.SQL(f"GENERATED ALWAYS AS ({column.default}) {GENERATED[column.generated]}"))
    elif column.identity:
        parts.append(sql.SQL(f"GENERATED {IDENTITY[column.identity]} AS IDENTITY"))
    elif column.default:
        parts.append(sql.SQL("DEFAULT {}").format(sql.SQL(column.default)))
    if column.not_null:
        parts.append(sql.SQL("NOT NULL"))
    return sql.SQL(" ").join(parts)
