"""Databases encoded in SQL_ASCII, whose text is bytes that the server does not interpret.

pgmig transfers their values unchanged. In a session with any other client encoding, the server checks values
and refuses bytes that are not valid in that encoding. So sessions that carry values of such a database use
client encoding SQL_ASCII. (COPY has an ENCODING option, but its binary format converts text anyway.) Names
are read as UTF-8 everywhere, which the preflight checks. pgmig reads and writes all other databases in UTF-8,
and the servers convert between UTF-8 and the encoding that both databases have.
"""

from __future__ import annotations

import psycopg
from psycopg import AsyncConnection

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.session.connection import translated

RAW = "SQL_ASCII"
COPY_RAW = f"ENCODING '{RAW}'"
"""COPY's option for a raw database."""

AS_STORED = f"SET client_encoding = {RAW}"


CONVERTED_IN_FULL = frozenset(
    {"UTF8", RAW, "LATIN1", "LATIN2", "LATIN4", "LATIN5", "LATIN6", "LATIN7", "LATIN8", "LATIN9", "LATIN10"}
    | {"ISO_8859_5", "KOI8R", "KOI8U", "WIN866", "WIN1256"}
)
"""Encodings in which every byte has an equivalent in UTF-8, and SQL_ASCII, which is not converted."""


def conversion_warnings(encoding: str) -> list[str]:
    """Warnings about text of the source that may have no equivalent in UTF-8."""
    if encoding in CONVERTED_IN_FULL:
        return []
    return [
        f"the source is encoded in {encoding}, some bytes of which have no equivalent in UTF-8, and text is "
        "sent in UTF-8: a row with such text stops the copy, and a change with it stops the replication; "
        "docs/operating.md says how to find such rows before"
    ]


def is_raw(conn: AsyncConnection) -> bool:
    """Whether the connected database is encoded in SQL_ASCII. The server reports this at login."""
    return conn.info.parameter_status("server_encoding") == RAW


async def send_as_stored(conn: AsyncConnection) -> None:
    """Send and receive text as the database stores it from now on. psycopg cannot decode such text."""
    if is_raw(conn):
        with translated("setting the session's encoding"):
            await conn.execute(AS_STORED)


async def check_names(conn: AsyncConnection) -> None:
    """Raises SOURCE_NOT_READY when names in the source, a raw database, are not UTF-8."""
    if not is_raw(conn):
        return
    try:
        for name in ("nspname FROM pg_catalog.pg_namespace", "relname FROM pg_catalog.pg_class",
                     "attname FROM pg_catalog.pg_attribute", "typname FROM pg_catalog.pg_type",
                     "conname FROM pg_catalog.pg_constraint", "proname FROM pg_catalog.pg_proc"):  # fmt: skip
            await conn.execute(f"SELECT {name}".encode())
    except psycopg.errors.CharacterNotInRepertoire as exc:
        raise PgmigError(
            ErrorKind.SOURCE_NOT_READY,
            f"the source, encoded in SQL_ASCII, has names that are not UTF-8: {exc.diag.message_primary}",
            "rename such schemas, relations, columns, types, constraints and functions",
        ) from exc
