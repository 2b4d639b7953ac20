"""The columns of tables as they are now on one server, and their definitions in SQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import AsyncConnection, sql

from services.shared.model import TableId
from services.shared.pg.session.connection import translated
from services.shared.pg.session.encoding import RAW, stored_encoding
from services.shared.pg.session.sql_files import load_sql

GENERATED = {"s": "STORED", "v": "VIRTUAL"}
IDENTITY = {"a": "ALWAYS", "d": "BY DEFAULT"}


@dataclass(frozen=True, slots=True)
class ColumnDefinition:
    """A column as it is now on one server.

    type_sql: the declared type. collation: "" for the type's default collation. default: expression of the
    default or of a generated column, "" if there is none. generated, identity: attgenerated, attidentity.
    missing: the value in rows that are older than the column; None: NULL, or there are no such rows; bytes:
    text as it is stored, which may have no equivalent in UTF-8.
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
    missing: str | bytes | None


MISSING_VALUES_SINCE = 110000
"""server_version_num from which ADD COLUMN with a default does not rewrite the table."""


Definitions = Mapping[TableId, tuple[ColumnDefinition, ...]]
"""Columns by table. A table that does not exist has no entry."""


async def read_columns(conn: AsyncConnection, tables: Collection[TableId]) -> Definitions:
    """Definitions of the columns of those of `tables` that exist."""
    found: dict[TableId, list[ColumnDefinition]] = {}
    encoding = stored_encoding(conn)
    given = {
        "schemas": [t.schema for t in tables],
        "names": [t.name for t in tables],
        "definitions": RAW if encoding == RAW else "UTF8",
        "values": encoding or "UTF8",
    }
    with translated("reading the columns of tables"):
        text = sql.SQL(load_sql("catalog/sql/table_columns.sql")).format(missing=sql.SQL(_missing(conn)))
        cursor = await conn.execute(text, given)
        async for schema, name, *column in cursor:
            columns = found.setdefault(TableId(schema, name), [])
            if column[0] is not None:
                columns.append(_definition(column, encoding))
    return {table: tuple(columns) for table, columns in found.items()}


def _definition(row: Sequence[Any], encoding: str) -> ColumnDefinition:
    """Expressions and values arrive as bytes, because in a database without an encoding they may be any
    bytes."""
    *texts, missing = row
    decoded: list[Any] = [
        text.decode(errors="backslashreplace") if isinstance(text, bytes) else text for text in texts
    ]
    decoded.append(None if missing is None else _text(missing, encoding))
    return ColumnDefinition(*decoded)


def _text(value: bytes, encoding: str) -> str | bytes:
    """The value as text, if that is certain to be right."""
    try:
        return value.decode("utf-8" if encoding in {"", RAW} else "ascii")
    except UnicodeDecodeError:
        return value


def _missing(conn: AsyncConnection) -> LiteralString:
    """SQL for the column's missing value, as text under the session's settings."""
    if conn.info.server_version < MISSING_VALUES_SINCE:
        return "NULL::text"
    return "(a.attmissingval::text::text[])[1]"


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
