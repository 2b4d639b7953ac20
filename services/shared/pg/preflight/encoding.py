"""Names and definitions of the source that have no equivalent in UTF-8, in which pgmig reads and writes them.

Values of such databases travel as they are stored: services.shared.pg.session.encoding. In a database encoded
in SQL_ASCII, definitions travel as they are stored too.
"""

from __future__ import annotations

from typing import LiteralString, NamedTuple

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.session.connection import translated
from services.shared.pg.session.encoding import RAW, codec_of, stored_encoding
from services.shared.pg.session.sql_files import load_sql

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
_DEFINITIONS = _Texts(
    "the definition or comment",
    "preflight/definitions.sql",
    "change it on the source, or drop the object",
)
_OLD_ROWS = _Texts(  # pg_dump reads them too
    "the value that older rows have since the column was added, that",
    "preflight/missing_values.sql",
    "run VACUUM FULL on that table of the source, which stores the value in its rows",
)


async def check_texts(source: AsyncConnection) -> None:
    """Raise SOURCE_NOT_READY for a name, or the definition of an object, that has no equivalent in UTF-8."""
    encoding = stored_encoding(source)
    if encoding:
        for texts in (_NAMES,) if encoding == RAW else (_NAMES, _DEFINITIONS, _OLD_ROWS):
            await _check(source, encoding, texts)


async def _check(source: AsyncConnection, encoding: str, texts: _Texts) -> None:
    query = load_sql(texts.sql)
    with translated("reading names and definitions of the source"):
        try:
            await source.execute(sql.SQL(_CONVERT_ALL).format(texts=sql.SQL(query)))
        except (psycopg.errors.UntranslatableCharacter, psycopg.errors.CharacterNotInRepertoire) as exc:
            where = await _search(source, encoding, query)
            raise PgmigError(
                ErrorKind.SOURCE_NOT_READY,
                f"the source, encoded in {encoding}, has names or definitions without an equivalent in UTF-8:"
                f" {texts.what} of {where}: {exc.diag.message_primary}",
                texts.remedy,
            ) from exc


async def _search(source: AsyncConnection, encoding: str, texts: LiteralString) -> str:
    """The first object with such a text."""
    await source.execute(sql.SQL(_SEARCH).format(texts=sql.SQL(texts)))
    row = await (await source.execute(_FOUND)).fetchone()
    stored = bytes.fromhex(row[0]) if row is not None and row[0] else b"an object"
    return stored.decode(codec_of(encoding), "backslashreplace")
