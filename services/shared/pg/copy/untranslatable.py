"""Find the row with text that has no equivalent in UTF-8.

Text of a database in another encoding is sent in UTF-8, and the server converts it. Some encodings have bytes
without a character in UTF-8 (0x81 in WIN1252, parts of EUC_JIS_2004), and the server's error names only the
bytes. So pgmig searches the source for the first row that cannot be converted. This reads whole tables, but
only after such an error, and for a limited time.
"""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, PgmigError, TableId
from services.shared.pg.copy.table import table_name
from services.shared.pg.session.connection import UNTRANSLATABLE_STATES, connection

SEARCH_S = 60
"""Time limit for one table, in seconds."""
LONGEST_KEY = 200
"""Maximum number of characters of a key's value."""

_SEARCH = """
DO $search$
DECLARE
    found record;
BEGIN
    FOR found IN SELECT tableoid, ctid, ROW(pgmig_row.*)::text AS text FROM {table} AS pgmig_row LOOP
        BEGIN
            PERFORM convert_to(found.text, 'UTF8');
        EXCEPTION WHEN untranslatable_character OR character_not_in_repertoire THEN
            PERFORM set_config('pgmig.found', found.tableoid || ' ' || found.ctid, false);
            RETURN;
        END;
    END LOOP;
END
$search$
"""
_COLUMNS = """
SELECT a.attname, coalesce(a.attnum = ANY (i.indkey::int2[]), false)
  FROM pg_attribute a
  LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
 WHERE a.attrelid = %s::oid AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""


def untranslatable(doing: str, where: str, then: str) -> PgmigError:
    """where: as returned by `find_untranslatable`. then: what to do after the value was corrected."""
    return PgmigError(
        ErrorKind.UNTRANSLATABLE,
        f"{doing}: {where or 'a row'} holds text that has no equivalent in UTF-8",
        f"correct the value on the source, {then}",
    )


async def find_untranslatable(uri: str, tables: Iterable[TableId]) -> str:
    """The first such row of these tables of the source: `column v of table public.t, row with key (id)=(7)`.
    Empty if there is none any more, or if it is not found in time."""
    try:
        async with connection(uri, "source") as conn:
            for table in tables:
                where = await _in_table(conn, table)
                if where:
                    return where
    except (psycopg.Error, PgmigError):
        pass  # the caller reports the earlier error
    return ""


async def _in_table(conn: AsyncConnection, table: TableId) -> str:
    await conn.execute(sql.SQL("SET statement_timeout = {}").format(sql.Literal(f"{SEARCH_S}s")))
    await conn.execute(sql.SQL(_SEARCH).format(table=table_name(table)))
    row = await (await conn.execute("SELECT current_setting('pgmig.found', true)")).fetchone()
    if row is None or not row[0]:
        return ""
    relation, _, ctid = str(row[0]).partition(" ")
    columns = await (await conn.execute(_COLUMNS, [relation])).fetchall()
    names = [name for name, _ in columns if not await _converts(conn, table, relation, ctid, name)]
    key = [(name, await _value(conn, table, relation, ctid, name)) for name, primary in columns if primary]
    listed = f"column {', '.join(names)} of table {table}"
    if not key or any(value is None for _, value in key):
        return f"{listed}, row with ctid {ctid}"
    return f"{listed}, row with key ({', '.join(n for n, _ in key)})=({', '.join(str(v) for _, v in key)})"


def _of_row(column: sql.Composable, table: TableId) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {} WHERE tableoid = %s::oid AND ctid = %s::tid").format(
        column, table_name(table)
    )


async def _converts(conn: AsyncConnection, table: TableId, relation: str, ctid: str, name: str) -> bool:
    # ROW(): uses the type's output function, and never a cast that an owner on the source has defined.
    column = sql.SQL("length(convert_to(ROW({})::text, 'UTF8'))").format(sql.Identifier(name))
    try:
        await conn.execute(_of_row(column, table), [relation, ctid])
    except psycopg.Error as exc:
        if exc.sqlstate not in UNTRANSLATABLE_STATES:
            raise
        return False
    return True


async def _value(conn: AsyncConnection, table: TableId, relation: str, ctid: str, name: str) -> str | None:
    """A key's value as text. None if it cannot be converted."""
    column = sql.SQL("format('%%s', {})").format(sql.Identifier(name))
    try:
        row = await (await conn.execute(_of_row(column, table), [relation, ctid])).fetchone()
    except psycopg.Error as exc:
        if exc.sqlstate not in UNTRANSLATABLE_STATES:
            raise
        return None
    return str(row[0])[:LONGEST_KEY] if row else None
