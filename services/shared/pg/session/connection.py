"""Connections: session settings that keep values exact, and translation of driver errors.

Settings (design: "values are bytes"): both ends of every COPY and of the change stream use the same settings.
So the text of a value means the same value on the destination.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

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

# A destination may be read-only by default for everybody but pgmig (services.shared.pg.guard). This setting
# of the session overrides those of the database and of the role. pgmig.own: the triggers that record writes
# of others leave the session alone.
_WRITING = {"default_transaction_read_only": "off", "pgmig.own": "on"}

# These are not in `options`, because a server refuses a connection with an unknown setting. The key is the
# server_version_num that introduced the setting.
_TIMEOUTS_SINCE = {140000: b"SET idle_session_timeout = 0", 170000: b"SET transaction_timeout = 0"}
# libpq sends the values of these variables at login, and they override `options`.
_OF_ENVIRONMENT = {"PGDATESTYLE": b"SET DateStyle = 'ISO, MDY'", "PGTZ": b"SET TimeZone = 'UTC'"}

# SQLSTATEs of errors that a retry from the start of the transaction may solve: rule 12 of docs/safety.md.
_TRANSIENT = re.compile(r"08...|40...|53...|57P0[1235]|55P03|57014|25P0[234]")
_AUTHENTICATION = re.compile(r"28...")
_PERMISSION = "42501"
_NO_SUCH = re.compile(r'(database|role|user) ".*" does not exist')
_FULL = re.compile("too many connections|connection slots|too many clients", re.IGNORECASE)
_STANDBY = "server is in hot standby mode"
"""Of libpq, if target_session_attrs=primary refuses the server."""
_DISK_FULL = "53100"
_DEADLOCK = frozenset({"40P01", "40001"})


def options(settings: dict[str, str]) -> str:
    """Settings in the form of libpq's `options`, with spaces and backslashes escaped."""
    escaped = {k: v.replace("\\", "\\\\").replace(" ", "\\ ") for k, v in settings.items()}
    return " ".join(f"-c {key}={value}" for key, value in escaped.items())


def complete_conninfo(uri: str, application: str, side: str = "", **overrides: str) -> str:
    """Return `uri` (a URI or key=value string) with our session settings, timeouts and keepalives. GSSAPI
    encryption is disabled unless `uri` asks for it. Standbys are refused, whatever `uri` asks for.

    The user's own `options` come first, so that ours override them. side: for error messages. Raises
    INVALID_ARGUMENT.
    """
    given = with_default_host(parameters(uri, side))
    settings = " ".join(filter(None, [str(given.get("options") or ""), options(_EXACT)]))
    defaults = {
        "connect_timeout": str(CONNECT_TIMEOUT_S),
        "gssencmode": "disable",  # otherwise a Kerberos ticket would decide whether a session is encrypted
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "tcp_user_timeout": "60000",
    }
    ours = {"options": settings, "application_name": application, "client_encoding": "UTF8"}
    ours["target_session_attrs"] = "primary"  # read-write would refuse a source that is frozen
    merged = {**defaults, **given, **ours, **overrides}
    return conninfo.make_conninfo("", **{k: str(v) for k, v in merged.items()})


def translate(exc: psycopg.Error, doing: str) -> PgmigError:
    """Translate the driver's error. `doing` names the action and the place: "reading the source catalog"."""
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
    if locks_are_full(exc):  # the locks of another session may be the cause
        return PgmigError(ErrorKind.TRANSIENT, f"{doing}: {text}: its lock table is full", RAISE_LOCKS)
    return PgmigError(ErrorKind.TRANSIENT, f"{doing}: {text}")


def locks_are_full(exc: psycopg.Error) -> bool:
    """Whether the server has no memory for another lock."""
    return exc.sqlstate == "53200" and LOCKS_SETTING in (exc.diag.message_hint or "")


def disk_full(doing: str, where: str, text: str) -> PgmigError:
    """where: the server whose disk is full, if `doing` does not name it. text: the server's message, which
    names the file and so the directory or tablespace."""
    return PgmigError(
        ErrorKind.DISK_FULL,
        f"{doing}: the server's disk is full{where}: {text}",
        "make room where that server keeps the file, or enlarge the disk; pgmig retries until there is room",
    )


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise psycopg errors of the block as PgmigError."""
    try:
        yield
    except psycopg.Error as exc:
        raise translate(exc, doing) from exc


def not_ready(side: str, message: str, hint: str) -> PgmigError:
    """The error for a server that lacks what it needs. side: "source" or "destination"."""
    kind = ErrorKind.SOURCE_NOT_READY if side == "source" else ErrorKind.DESTINATION_NOT_READY
    return PgmigError(kind, message, hint)


def connect_failure(exc: psycopg.OperationalError, uri: str, side: str) -> PgmigError:
    where = endpoint(uri)
    text = " ".join(str(exc).split())
    place = f"{side} {where.address}"
    lowered = text.lower()
    if "authentication failed" in lowered or "no password" in lowered or "pg_hba.conf" in lowered:
        return PgmigError(
            ErrorKind.AUTHENTICATION,
            f"{place} refuses the login: {text}",
            "check user and password in the URI, and pg_hba.conf on the server",
        )
    if "conversion between" in lowered and "is not supported" in lowered:
        return not_ready(
            side,
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
    return _unreachable(where, place, text)


def _unreachable(where: Endpoint, place: str, text: str) -> PgmigError:
    if _FULL.search(text):
        return PgmigError(
            ErrorKind.UNREACHABLE,
            f"cannot connect to {place}: {text}",
            "end other sessions, or raise the limit that the message names (CONNECTION LIMIT of role or "
            "database, max_connections)",
        )
    if _STANDBY in text and len(where.servers) == 1:
        return PgmigError(
            ErrorKind.UNREACHABLE,
            f"{place} is a standby",
            "connect to the primary server, or name all servers: host=a,b port=5432,5432",
        )
    return PgmigError(
        ErrorKind.UNREACHABLE,
        f"cannot connect to {place}: {text}",
        "check host, port and network, and that the server runs"
        + (", with TLS and a certificate that fits sslmode and sslrootcert" if requires_tls(where) else ""),
    )


async def open_session(info: str, *, autocommit: bool = True) -> AsyncConnection:
    """Connect with psycopg, and protect the attempt from cancellation. Timeouts that are set for the role or
    the database do not end the session. Raises psycopg.OperationalError."""
    return await connecting(_open(info, autocommit=autocommit))


async def connecting(attempt: Coroutine[Any, Any, AsyncConnection]) -> AsyncConnection:
    """Await an attempt to connect, and protect it from cancellation: a cancelled attempt would leave an open
    session on the server until garbage collection."""
    opening = asyncio.create_task(attempt, name="connect")
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


def _options_of(info: str) -> str:
    return str(conninfo.conninfo_to_dict(info).get("options") or "")


def _simple_query(conn: AsyncConnection, text: bytes) -> PQGen[None]:
    """Run statements outside of psycopg's transactions, with the simple query protocol, which walsenders
    support."""
    conn.pgconn.send_query(text)
    for result in (yield from generators.execute(conn.pgconn)):
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise psycopg.OperationalError(result.error_message.decode(errors="replace"))


def _close_unwanted(opening: asyncio.Task[AsyncConnection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().pgconn.finish()


async def connect(
    uri: str, side: str, *, autocommit: bool = True, database: str = "", as_given: bool = False
) -> AsyncConnection:
    """Open a connection with our session settings. side: "source" or "destination". database: a database of
    the same server to connect to instead of the URI's. Sessions on the destination can write, whatever the
    default is there. as_given: leave them the default."""
    info = complete_conninfo(uri, f"pgmig {side}", side, **({"dbname": database} if database else {}))
    if side == "destination" and not as_given:
        info = conninfo.make_conninfo(info, options=f"{_options_of(info)} {options(_WRITING)}")
    try:
        return await open_session(info, autocommit=autocommit)
    except psycopg.OperationalError as exc:
        raise connect_failure(exc, uri, side) from exc


def reached(conn: AsyncConnection, uri: str) -> Endpoint:
    """The server and database that `conn`, opened with `uri`, is connected to. If the connection uses TLS,
    the result has sslmode=require."""
    where = endpoint(uri, conn.info.server_version)
    return requiring_tls(where) if conn.pgconn.ssl_in_use else where


@asynccontextmanager
async def connection(
    uri: str, side: str, *, autocommit: bool = True, database: str = "", as_given: bool = False
) -> AsyncIterator[AsyncConnection]:
    """`connect` for a block. The connection is closed at the end of the block, and uncommitted work is rolled
    back."""
    conn = await connect(uri, side, autocommit=autocommit, database=database, as_given=as_given)
    try:
        yield conn
    finally:
        await conn.close()
