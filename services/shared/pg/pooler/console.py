"""PgBouncer's admin console: PAUSE and RESUME (PgBouncer's manual, "Admin console").

The console looks like a database of the name `pgbouncer`. It answers only the simple query protocol, and
accepts few startup parameters. A connection string names the database that is paused, by the name that the
pooler's clients use. `pgbouncer` stands for all databases of the pooler.

PAUSE is answered when all transactions of clients have ended, or with pool_mode=session, when all clients
have disconnected. It stays in effect when the session that sent it ends, until RESUME or the pooler's end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg import AsyncConnection, conninfo, generators, pq, waiting
from psycopg.abc import PQGen

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.session.connection import connecting
from services.shared.pg.session.uri import (
    as_recorded,
    endpoint,
    parameters,
    passwordless_uri,
    with_default_host,
)

ADMIN_DATABASE = "pgbouncer"
CONNECT_TIMEOUT_S = 5
_LOOK_EVERY_S = 1.0
_ADMIN_NEEDED = "admin access needed"
_PAUSED = "already suspended/paused"
_NOT_PAUSED = ("is not paused", "not paused/suspended")
_NO_SETTING = "SET pgmig_has_no_such_setting = '0'"
"""The console answers it with an error, to administrators with another one than to others."""


def without_password(uri: str) -> str:
    """The connection string for the record. Raises INVALID_ARGUMENT, also for one with several hosts: PAUSE
    and RESUME could reach different ones."""
    parameters(uri, "pooler")
    if len(endpoint(uri).servers) > 1:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            "the pooler's connection string names several hosts",
            "give each pooler with an option of its own",
        )
    return passwordless_uri(endpoint(uri))


def has_password(uri: str) -> bool:
    """Whether it has any secret. Raises INVALID_ARGUMENT."""
    return not {"password", "sslpassword"}.isdisjoint(parameters(uri, "pooler"))


def place(uri: str) -> str:
    """HOST:PORT/DATABASE, for messages."""
    where = endpoint(uri)
    return f"{where.host}:{where.port}/{where.dbname}"


def same_console(one: str, other: str) -> bool:
    """Whether both lead to the same console with the same user."""
    first, second = endpoint(one), endpoint(other)
    return (first.servers, first.user) == (second.servers, second.user)


def with_secrets_of(recorded: str, uri: str) -> str:
    """`recorded`, which has no password, with that of `uri`, which leads to the same console."""
    where = endpoint(recorded)
    return as_recorded(conninfo.make_conninfo(uri, dbname=where.dbname), where)


async def check(uri: str) -> None:
    """Check that `pause` could succeed. Changes nothing. Raises UNREACHABLE, AUTHENTICATION, PERMISSION,
    NOT_FOUND, WRONG_PHASE if it is paused already, and INVALID_ARGUMENT if it is no console."""
    async with _console(uri) as conn:
        if _ADMIN_NEEDED in await _error(conn, _NO_SETTING):
            raise PgmigError(
                ErrorKind.PERMISSION,
                f"the pooler at {place(uri)} does not let user {endpoint(uri).user} pause it",
                "add the user to admin_users in its configuration, and reload it",
            )
        database = _database(uri)
        found = await _databases(conn, uri)
        if database and database not in found:
            raise PgmigError(
                ErrorKind.NOT_FOUND,
                f"the pooler at {place(uri)} has no such database",
                "name the database as the pooler's clients do; SHOW DATABASES on its console lists those "
                f"that are configured or in use; {ADMIN_DATABASE} stands for all of them",
            )
        if database and found[database]:
            raise _paused_already(uri)


async def pause(uri: str) -> None:
    """Return when the database, or the whole pooler, is paused. If this is cancelled, it may be paused.
    Raises WRONG_PHASE if somebody else has paused the whole pooler: nothing was changed then."""
    async with _console(uri) as conn:
        error = await _error(conn, f"PAUSE{_argument(uri)}")
        if _PAUSED in error:
            raise _paused_already(uri)
        if error:
            raise PgmigError(
                ErrorKind.SWITCHOVER_FAILED,
                f"the pooler at {place(uri)} refuses to pause: {error}",
                "see that its console accepts PAUSE, then switch over again",
            )


async def resume(uri: str) -> bool:
    """RESUME. Returns whether it was paused: the pooler may have been restarted, or resumed by hand."""
    async with _console(uri) as conn:
        error = await _error(conn, f"RESUME{_argument(uri)}")
        if error and not any(known in error for known in _NOT_PAUSED):
            raise PgmigError(
                ErrorKind.SWITCHOVER_FAILED, f"the pooler at {place(uri)} refuses to resume: {error}"
            )
        return not error


def by_hand(uri: str) -> str:
    """What an operator types to resume it."""
    where = endpoint(uri)
    argument = _argument(uri).replace("'", "'\\''")
    return (
        f"psql -h {where.host} -p {where.port} -U {where.user or 'USER'} {ADMIN_DATABASE} "
        f"-c 'RESUME{argument}'"
    )


def _database(uri: str) -> str:
    """The database to pause; "": all."""
    name = endpoint(uri).dbname
    return "" if name == ADMIN_DATABASE else name


def _argument(uri: str) -> str:
    """The console knows no parameters. In its grammar a name in double quotes ends at the next one that is
    not doubled."""
    name = _database(uri).replace('"', '""')
    return f' "{name}"' if name else ""


def _paused_already(uri: str) -> PgmigError:
    return PgmigError(
        ErrorKind.WRONG_PHASE,
        f"the pooler at {place(uri)} is paused already",
        "resume it on its console, then switch over again",
    )


def _no_console(uri: str) -> PgmigError:
    where = endpoint(uri)
    return PgmigError(
        ErrorKind.INVALID_ARGUMENT,
        f"{where.host}:{where.port} has no admin console of PgBouncer",
        "give the address of a PgBouncer, and a user in its admin_users",
    )


@asynccontextmanager
async def _console(uri: str) -> AsyncIterator[AsyncConnection]:
    given = with_default_host(parameters(uri, "pooler"))
    ours = {
        "dbname": ADMIN_DATABASE,
        "options": "",  # also those of PGOPTIONS, which the console refuses
        "application_name": "pgmig pooler",
        "client_encoding": "UTF8",
        "connect_timeout": str(CONNECT_TIMEOUT_S),
    }
    info = conninfo.make_conninfo("", **{"gssencmode": "disable", **given, **ours})
    try:
        conn = await connecting(AsyncConnection.connect(info, autocommit=True, prepare_threshold=None))
    except psycopg.OperationalError as exc:
        raise _unreachable(exc, uri) from exc
    try:
        yield conn
    finally:
        conn.pgconn.finish()  # nothing is awaited: it may have been cancelled


def _unreachable(exc: psycopg.OperationalError, uri: str) -> PgmigError:
    text = " ".join(str(exc).split())
    lowered = text.lower()
    if f'database "{ADMIN_DATABASE}"' in lowered:
        return _no_console(uri)
    refused = ("authentication failed", "no password", "no such user", "not allowed", "pg_hba")
    if any(words in lowered for words in refused):
        return PgmigError(
            ErrorKind.AUTHENTICATION,
            f"the console of the pooler at {place(uri)} refuses the login: {text}",
            "check user and password, and admin_users and auth_file in the pooler's configuration",
        )
    return PgmigError(
        ErrorKind.UNREACHABLE,
        f"cannot connect to the console of the pooler at {place(uri)}: {text}",
        "check host, port and network, and that the pooler runs",
    )


async def _databases(conn: AsyncConnection, uri: str) -> dict[str, bool]:
    """By name, whether it is paused."""
    result = await _answer(conn, "SHOW DATABASES")
    names = [(result.fname(n) or b"").decode() for n in range(result.nfields)]
    if result.status != pq.ExecStatus.TUPLES_OK or not {"name", "paused"} <= set(names):
        raise _no_console(uri)
    name, paused = names.index("name"), names.index("paused")
    rows = range(result.ntuples)
    return {_text(result, row, name): _text(result, row, paused) not in {"", "0"} for row in rows}


def _text(result: pq.abc.PGresult, row: int, column: int) -> str:
    return (result.get_value(row, column) or b"").decode(errors="replace")


async def _error(conn: AsyncConnection, command: str) -> str:
    """Run the command. Returns its error; "" if there was none."""
    result = await _answer(conn, command)
    if result.status in {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}:
        return ""
    return " ".join(result.error_message.decode(errors="replace").split()) or "no reason given"


async def _answer(conn: AsyncConnection, command: str) -> pq.abc.PGresult:
    """Raises UNREACHABLE if the connection breaks. psycopg's own methods would wait for the answer when they
    are cancelled, and that of PAUSE may never come."""
    try:
        conn.pgconn.send_query(command.encode())
        answered: pq.abc.PGresult = await waiting.wait_async(_last(conn), conn.pgconn.socket, _LOOK_EVERY_S)
    except psycopg.OperationalError as exc:
        raise PgmigError(
            ErrorKind.UNREACHABLE,
            f"the connection to the pooler {conn.info.host}:{conn.info.port} broke: {exc}",
            "see that the pooler runs",
        ) from exc
    return answered


def _last(conn: AsyncConnection) -> PQGen[pq.abc.PGresult]:
    results: list[pq.abc.PGresult] = yield from generators.execute(conn.pgconn)
    return results[-1]
