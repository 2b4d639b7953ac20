"""Names and definitions of the source that have no equivalent in UTF-8, in which pgmig reads and writes them.

Values of such databases travel as they are stored: services.shared.pg.session.encoding. In a database encoded
in SQL_ASCII, definitions travel as they are stored too.
"""

from __future__ import annotations

from typing import LiteralString, NamedTuple

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.selection.rules import Chosen
from services.shared.pg.session.connection import translated
from services.shared.pg.session.encoding import RAW, codec_of, stored_encoding
from services.shared.pg.session.sql_files import load_sql, load_sql_for

_CONVERT_ALL: LiteralString = (
    "SELECT pg_catalog.max(pg_catalog.octet_length(pg_catalog.convert_to(t.text, 'UTF8'))) FROM ({texts}) t"
)
# The result is the object's description in hexadecimal digits, because it may contain the name.
_SEARCH: LiteralString = """
DO $search$
DECLARE
    found record;
BEGIN
    FOR found IN {texts} LOOP
        BEGIN
            PERFORM convert_to(found.text, 'UTF8');
        EXCEPTION WHEN untranslatable_character OR character_not_in_repertoire THEN
            PERFORM set_config('pgmig.found', encode(convert_to(pg_describe_object(
                found.class, found.object, found.part), getdatabaseencoding()), 'hex'), false);
            RETURN;
        END;
    END LOOP;
END
$search$
"""
_FOUND = "SELECT pg_catalog.current_setting('pgmig.found', true)"


class _Texts(NamedTuple):
    """sql: the file with their query."""

    what: str
    sql: str
    remedy: str


_NAMES = _Texts("the name", "preflight/names.sql", "rename it on the source")
_CHANGE = "change it on the source, or drop the object"
_COMMENTS = _Texts("the comment, security label or options", "preflight/comments.sql", _CHANGE)
_DEFAULTS = _Texts("the default or expression", "preflight/defaults.sql", _CHANGE)
_DEFINITIONS = _Texts("the definition", "preflight/definitions.sql", _CHANGE)
_OLD_ROWS = _Texts(  # pg_dump reads them too
    "the value that older rows have since the column was added, that",
    "preflight/missing_values.sql",
    "run VACUUM FULL on that table of the source, which stores the value in its rows",
)


async def check_names(source: AsyncConnection) -> None:
    """Raise SOURCE_NOT_READY for a name that has no equivalent in UTF-8: pgmig and pg_dump read all names."""
    if stored_encoding(source):
        await _check(source, _NAMES, sql.SQL(load_sql(_NAMES.sql)))


async def check_definitions(source: AsyncConnection, chosen: Chosen, *, data_only: bool) -> None:
    """Raise SOURCE_NOT_READY for a definition or comment that has no equivalent in UTF-8, among those that
    will be read. data_only: pg_dump is not run, but columns are compared."""
    if stored_encoding(source) in {"", RAW}:
        return
    if not data_only:
        await _check(source, _COMMENTS, sql.SQL(load_sql(_COMMENTS.sql)))
    missing = await _missing(source, chosen)
    for texts in (_DEFAULTS,) if data_only else (_DEFAULTS, _DEFINITIONS, _OLD_ROWS):
        query = sql.SQL(load_sql("preflight/dumped.sql")).format(
            texts=sql.SQL(load_sql_for(texts.sql, source.info.server_version)), missing=missing
        )
        await _check(source, texts, query)


async def _missing(source: AsyncConnection, chosen: Chosen) -> sql.Literal:
    """The OIDs of the relations that are not created. Names must not get into the body of a DO statement."""
    with translated("looking up relations of the source"):
        cursor = await source.execute(
            "SELECT c.oid::bigint FROM unnest(%s::text[], %s::text[]) AS m (s, r)"
            " JOIN pg_catalog.pg_namespace n ON n.nspname = m.s"
            " JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = m.r",
            [[one.schema for one in chosen.missing], [one.name for one in chosen.missing]],
        )
        return sql.Literal([oid for (oid,) in await cursor.fetchall()])


async def _check(source: AsyncConnection, texts: _Texts, query: sql.Composable) -> None:
    encoding = stored_encoding(source)
    with translated("reading names and definitions of the source"):
        try:
            await source.execute(sql.SQL(_CONVERT_ALL).format(texts=query))
        except (psycopg.errors.UntranslatableCharacter, psycopg.errors.CharacterNotInRepertoire) as exc:
            where = await _search(source, encoding, query)
            raise PgmigError(
                ErrorKind.SOURCE_NOT_READY,
                f"the source, encoded in {encoding}, has names or definitions without an equivalent in UTF-8:"
                f" {texts.what} of {where}: {exc.diag.message_primary}",
                texts.remedy,
            ) from exc


async def _search(source: AsyncConnection, encoding: str, texts: sql.Composable) -> str:
    """The first object with such a text."""
    await source.execute(sql.SQL(_SEARCH).format(texts=texts))
    row = await (await source.execute(_FOUND)).fetchone()
    stored = bytes.fromhex(row[0]) if row is not None and row[0] else b"an object"
    return stored.decode(codec_of(encoding), "backslashreplace")
