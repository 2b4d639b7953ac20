"""Connections: session settings that keep values exact, and driver errors made ours.

Settings (design: "values are bytes"): both ends of every COPY and of the change stream use
the same, so that the text of a value means the same value on the destination.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
from psycopg import AsyncConnection, conninfo, generators, pq
from psycopg.abc import PQGen

from services.shared.model import Endpoint, ErrorKind, PgmigError
from services.shared.pg.session.uri import (
    endpoint,
    parameters,
    requires_tls,
    requiring_tls,
    with_default_host,
)

Connection = AsyncConnection
"""For annotations outside this package."""

CONNECT_TIMEOUT_S = 10
LOCKS_SETTING = "max_locks_per_transaction"
RAISE_LOCKS = f"raise {LOCKS_SETTING} on that server and restart it, then continue"

_EXACT = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "xmloption": "content",
    "lc_monetary": "C",
    "TimeZone": "UTC",
    "search_path": "",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "0",
    "row_security": "off",
}

# Not in `options`: a server that does not know a setting refuses the connection. By the
# server_version_num that introduced each.
_TIMEOUTS_SINCE = {140000: b"SET idle_session_timeout = 0", 170000: b"SET transaction_timeout = 0"}
# libpq sends these variables with the login, where they win over `options`.
_OF_ENVIRONMENT = {"PGDATESTYLE": b"SET DateStyle = 'ISO, MDY'", "PGTZ": b"SET TimeZone = 'UTC'"}

# SQLSTATEs that a retry from the transaction's start may cure: rule 12 of docs/safety.md.
_TRANSIENT = re.compile(r"08...|40...|53...|57P0[1235]|55P03|57014|25P0[234]")
_AUTHENTICATION = re.compile(r"28...")
_PERMISSION = "42501"
_NO_SUCH = re.compile(r'(database|role|user) ".*" does not exist')
_DISK_FULL = "53100"
UNTRANSLATABLE_STATES = frozenset({"22P05", "22021"})
"""Of characters that the other encoding lacks, and of bytes that are no character."""
_DEADLOCK = frozenset({"40P01", "40001"})


def options(settings: dict[str, str]) -> str:
    """Settings as libpq's `options`: spaces and backslashes escaped."""
    escaped = {k: v.replace("\\", "\\\\").replace(" ", "\\ ") for k, v in settings.items()}
    return " ".join(f"-c {key}={value}" for key, value in escaped.items())


def complete_conninfo(uri: str, application: str, side: str = "", **overrides: str) -> str:
    """`uri` (a URI or key=value string) with our session settings, time-outs and keepalives, and
    without GSSAPI encryption unless it asks for that.

    The user's own `options` come first, so that ours win. side: for errors. Raises INVALID_ARGUMENT.
    """
    given = with_default_host(parameters(uri, side))
    settings = " ".join(filter(None, [str(given.get("options") or ""), options(_EXACT)]))
    defaults = {
        "connect_timeout": str(CONNECT_TIMEOUT_S),
        "gssencmode": "disable",  # else a Kerberos ticket alone would decide whether a session is encrypted
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "tcp_user_timeout": "60000",
    }
    ours = {"options": settings, "application_name": application, "client_encoding": "UTF8"}
    merged = {**defaults, **given, **ours, **overrides}
    return conninfo.make_conninfo("", **{k: str(v) for k, v in merged.items()})


def translate(exc: psycopg.Error, doing: str) -> PgmigError:
    """The driver's error as ours. `doing` says what and where: "reading the source catalog"."""
    state = exc.sqlstate or ""
    text = (exc.diag.message_primary or str(exc)).strip().splitlines()[0] if str(exc) else type(exc).__name__
    message = f"{doing}: {text}"
    if _AUTHENTICATION.fullmatch(state) or "password authentication failed" in text or "no password" in text:
        return PgmigError(
            ErrorKind.AUTHENTICATION, message, "check user and password, and pg_hba.conf on the server"
        )
    if state == _PERMISSION:
        return PgmigError(ErrorKind.PERMISSION, message, "grant the missing privilege, or use another role")
    if not state and isinstance(exc, psycopg.OperationalError):
        return PgmigError(
            ErrorKind.UNREACHABLE, message, "check host, port and network, and that the server runs"
        )
    if _TRANSIENT.fullmatch(state):
        return _transient(exc, doing, text)
    return PgmigError(ErrorKind.INTERNAL, f"{message} (SQLSTATE {state or 'none'})")


def _transient(exc: psycopg.Error, doing: str, text: str) -> PgmigError:
    if exc.sqlstate in _DEADLOCK:
        return PgmigError(
            ErrorKind.DEADLOCK, f"{doing}: {text}", "other sessions of that server lock the same rows"
        )
    if exc.sqlstate == _DISK_FULL:
        return disk_full(doing, "", text)
    if locks_are_full(exc):  # and another session's locks may be to blame
        return PgmigError(ErrorKind.TRANSIENT, f"{doing}: {text}: its lock table is full", RAISE_LOCKS)
    return PgmigError(ErrorKind.TRANSIENT, f"{doing}: {text}")


def locks_are_full(exc: psycopg.Error) -> bool:
    """Whether the server has no room for another lock."""
    return exc.sqlstate == "53200" and LOCKS_SETTING in (exc.diag.message_hint or "")


def disk_full(doing: str, where: str, text: str) -> PgmigError:
    """where: on which of the servers, if `doing` does not say it. text: the server's own words, which
    name the file, and so the directory or tablespace."""
    return PgmigError(
        ErrorKind.DISK_FULL,
        f"{doing}: the server's disk is full{where}: {text}",
        "make room where that server keeps the file, or enlarge the disk: it is retried until there is",
    )


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise psycopg errors of the block as PgmigError."""
    try:
        yield
    except psycopg.Error as exc:
        raise translate(exc, doing) from exc


def connect_failure(exc: psycopg.OperationalError, uri: str, side: str) -> PgmigError:
    where = endpoint(uri)
    text = " ".join(str(exc).split())
    place = f"{side} {where.host}:{where.port}/{where.dbname}"
    lowered = text.lower()
    if "authentication failed" in lowered or "no password" in lowered or "pg_hba.conf" in lowered:
        return PgmigError(
            ErrorKind.AUTHENTICATION,
            f"{place} refuses the login: {text}",
            "check user and password in the URI, and pg_hba.conf on the server",
        )
    if "conversion between" in lowered and "is not supported" in lowered:
        return PgmigError(
            ErrorKind.SOURCE_NOT_READY if side == "source" else ErrorKind.DESTINATION_NOT_READY,
            f"{place} is in an encoding that PostgreSQL cannot convert to UTF-8: {text}",
            "pgmig cannot migrate such a database: move it with pg_dump into a database in UTF8 or another "
            "encoding",
        )
    if "not currently accepting connections" in lowered:
        return PgmigError(
            ErrorKind.DATABASE_CLOSED,
            f"{place} accepts no connections",
            "if a switchover has closed it, pgmig-cli unfreeze opens it; so does this, from another database "
            f'of that server: ALTER DATABASE "{where.dbname}" ALLOW_CONNECTIONS true',
        )
    if _NO_SUCH.search(lowered):
        return PgmigError(
            ErrorKind.AUTHENTICATION,
            f"{place} refuses the login: {text}",
            "check the database and role names in the URI",
        )
    return PgmigError(
        ErrorKind.UNREACHABLE,
        f"cannot connect to {place}: {text}",
        "check host, port and network, and that the server runs"
        + (", with TLS and a certificate that fits sslmode and sslrootcert" if requires_tls(where) else ""),
    )


async def open_session(info: str, *, autocommit: bool = True) -> AsyncConnection:
    """psycopg's connect, for which cancellation must wait: cut off half way it leaves the session
    on the server to the garbage collector. No time-out of the role's or the database's ends the
    session. Raises psycopg.OperationalError."""
    opening = asyncio.create_task(_open(info, autocommit=autocommit), name="connect")
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise


async def _open(info: str, *, autocommit: bool) -> AsyncConnection:
    conn = await AsyncConnection.connect(info, autocommit=autocommit, prepare_threshold=None)
    version = conn.info.server_version
    settings = [text for since, text in _TIMEOUTS_SINCE.items() if since <= version]
    settings += [text for variable, text in _OF_ENVIRONMENT.items() if variable in os.environ]
    if settings:
        try:
            await conn.wait(_simple_query(conn, b"; ".join(settings)))
        except BaseException:
            conn.pgconn.finish()
            raise
    return conn


def _simple_query(conn: AsyncConnection, text: bytes) -> PQGen[None]:
    """Run statements outside of psycopg's transactions, and by the protocol that walsenders know."""
    conn.pgconn.send_query(text)
    for result in (yield from generators.execute(conn.pgconn)):
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise psycopg.OperationalError(result.error_message.decode(errors="replace"))


def _close_unwanted(opening: asyncio.Task[AsyncConnection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().pgconn.finish()


async def connect(uri: str, side: str, *, autocommit: bool = True, database: str = "") -> AsyncConnection:
    """Open a connection with our session settings. side: "source" or "destination". database: another
    one of the same server than the URI's."""
    info = complete_conninfo(uri, f"pgmig {side}", side, **({"dbname": database} if database else {}))
    try:
        return await open_session(info, autocommit=autocommit)
    except psycopg.OperationalError as exc:
        raise connect_failure(exc, uri, side) from exc


def reached(conn: AsyncConnection, uri: str) -> Endpoint:
    """Where `uri` has led. With sslmode=require if TLS is what it was reached with."""
    where = endpoint(uri, conn.info.server_version)
    return requiring_tls(where) if conn.pgconn.ssl_in_use else where


@asynccontextmanager
async def connection(
    uri: str, side: str, *, autocommit: bool = True, database: str = ""
) -> AsyncIterator[AsyncConnection]:
    """`connect` for a block; closed at its end, uncommitted work rolled back."""
    conn = await connect(uri, side, autocommit=autocommit, database=database)
    try:
        yield conn
    finally:
        await conn.close()
