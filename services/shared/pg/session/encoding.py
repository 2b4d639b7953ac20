"""The encoding in which the values of a database travel.

Usually a session uses client encoding UTF8, and the servers convert between UTF-8 and the encoding that both
databases have. Some encodings have bytes that have no equivalent in UTF-8 (0x81 in WIN1252, parts of
EUC_JIS_2004), and a database in SQL_ASCII has text that the server does not interpret. The values of such
databases travel as they are stored: the sessions that carry them use the database's encoding, and COPY its
ENCODING option. COPY's binary format ignores that option.

Names and statements travel in UTF-8 everywhere, except for the names in Relation messages: the walsender
sends them in the session's encoding, and `relation_names` converts them. The preflight refuses names without
an equivalent in UTF-8. In a database in SQL_ASCII, names must be UTF-8, which the preflight checks too.
"""

from __future__ import annotations

import codecs
from functools import cache
from typing import Any

from psycopg import AsyncConnection, sql

from services.shared.pg.session.connection import translated

RAW = "SQL_ASCII"

CONVERTED_IN_FULL = frozenset(
    {"UTF8", "LATIN1", "LATIN2", "LATIN4", "LATIN5", "LATIN6", "LATIN7", "LATIN8", "LATIN9", "LATIN10"}
    | {"ISO_8859_5", "KOI8R", "KOI8U", "WIN866", "WIN1256"}
)
"""Encodings in which every byte has an equivalent in UTF-8."""


def stored_encoding(conn: AsyncConnection) -> str:
    """The encoding of the connected database if its values travel as they are stored; "" if they travel in
    UTF-8. The server reports its encoding at login."""
    # `conn.info` fails while the client encoding is one that psycopg does not know.
    encoding = (conn.pgconn.parameter_status(b"server_encoding") or b"").decode()
    return "" if encoding in CONVERTED_IN_FULL else encoding


def is_raw(conn: AsyncConnection) -> bool:
    """Whether the connected database is encoded in SQL_ASCII."""
    return stored_encoding(conn) == RAW


def copy_options(conn: AsyncConnection) -> list[str]:
    """COPY's options for values that travel as they are stored."""
    encoding = stored_encoding(conn)
    return [f"ENCODING '{encoding}'"] if encoding else []


def set_encoding(encoding: str) -> str:
    """The statement for the client encoding."""
    return sql.SQL("SET client_encoding = {}").format(sql.Literal(encoding)).as_string(None)


async def send_as_stored(conn: AsyncConnection) -> None:
    """From now on, send and receive text as the database stores it, if its values travel that way. psycopg
    cannot decode text of some encodings."""
    if encoding := stored_encoding(conn):
        with translated("setting the session's encoding"):
            await conn.execute(set_encoding(encoding).encode())


async def rows_as_stored(conn: AsyncConnection, query: sql.Composed) -> list[Any]:
    """The rows of a query that calls pgoutput, which converts values to the client encoding. The encoding is
    set for this query only. psycopg may be unable to decode text of the result: let the query convert it to
    bytea."""
    encoding = stored_encoding(conn)
    if not encoding:
        return await (await conn.execute(query)).fetchall()
    # One message, so that both statements are one transaction.
    both = sql.SQL("SET LOCAL client_encoding = {}; {}").format(sql.Literal(encoding), query)
    cursor = await conn.execute(both)
    cursor.nextset()
    return await cursor.fetchall()


@cache
def codec_of(encoding: str) -> str:
    """Python's codec for text as it is stored, for messages only: Python lacks some codecs, and some
    characters differ. encoding: as from `stored_encoding`."""
    if encoding in {"", RAW}:
        return "utf-8"
    try:
        return codecs.lookup(encoding.replace("WIN", "cp")).name
    except LookupError:
        return "ascii"
