"""Release the writers of a frozen source: everything is restored as it was recorded.

The coordinator that froze the source may still be running, for example if a second one has taken over the
migration. Its sessions would continue the freeze after the thaw, and nobody would thaw the source again. So
the freeze records its sessions before it begins, and a thaw terminates them first. A thaw records each of its
own sessions in the same way: a coordinator that stops responding during a thaw must not open the source
later, when another one has frozen it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from psycopg import AsyncConnection, sql

from services.shared.model import PgmigError
from services.shared.pg.freeze.closed_database import beside, is_open, set_open, writable_connection
from services.shared.pg.freeze.sessions import OwnSession, alive, end_begun_after, end_own, own_session
from services.shared.pg.freeze.subscriptions import enable
from services.shared.pg.session.connection import translated

SETTING = "default_transaction_read_only"
FROZEN = "on"
"""What a freeze sets it to."""

Announce = Callable[[tuple[OwnSession, ...]], Awaitable[None]]
"""Stores which sessions may still change the freeze of the source, including the caller's. Raises FENCED if
another coordinator has taken over."""


@dataclass(frozen=True, slots=True)
class Before:
    """The source before the freeze.

    read_only_default: the database's own setting, "" if it had none. at: the source's clock, Unix seconds.
    database: its name, "" if the switchover blocks nobody. door: another database, from which this one can be
    opened. subscriptions: those that were enabled. sessions: of the freeze, and of a thaw that may still be
    running. side: of the migration ("source" or "destination"), for messages.
    """

    read_only_default: str
    at: float
    database: str = ""
    door: str = ""
    subscriptions: tuple[str, ...] = ()
    sessions: tuple[OwnSession, ...] = ()
    side: str = "source"


class StillDisabledError(PgmigError):
    """Writers can write to the source again, but subscriptions are still disabled."""


async def thaw(uri: str, before: Before, announce: Announce | None = None) -> tuple[str, ...]:
    """Restore everything that the freeze has changed so far: `let_writers_in`, then `enable_again`."""
    changed = await let_writers_in(uri, before, announce)
    await enable_again(uri, before, announce)
    return changed


async def let_writers_in(uri: str, before: Before, announce: Announce | None = None) -> tuple[str, ...]:
    """Restore the default and open the database. Returns a sentence for each thing.

    A default that is neither the freeze's nor the one before was set by somebody else in the meantime. It is
    kept.

    announce: awaited before anything is changed. After that the sessions of the freeze are terminated. A
    switchover that blocks nobody has changed nothing else.

    The setting is restored before the database is opened, so that no new session is read-only. Sessions that
    began during the freeze would stay read-only until they reconnect, and a connection pool would keep them.
    So they are terminated.
    """
    side = before.side
    if before.database:
        conn = await beside(uri, before.door, side)
    else:
        conn = await writable_connection(uri, side=side)
    try:
        await _replace_others(conn, before, announce)
        if not before.database:
            return ()
        database = before.database
        kept = await _kept_default(conn, before)
        changed = [] if kept else await _put_default_back(conn, before)
        if not await is_open(conn, database, side):
            changed.append(f"database {database} of the {side} accepts connections again")
            await set_open(conn, database, accepts=True, side=side)
        if changed:
            with suppress(PgmigError):
                await end_begun_after(conn, database, [conn.info.backend_pid], before.at, side)
    finally:
        await conn.close()
    return (*kept, *changed)


async def enable_again(uri: str, before: Before, announce: Announce | None = None) -> None:
    """Enable the subscriptions that the freeze has disabled. Call this after `let_writers_in`.

    announce: awaited before anything is changed. Raises StillDisabledError, and the errors of `announce`.
    """
    if not before.subscriptions:
        return
    conn = await writable_connection(uri, side=before.side)
    try:
        if announce is not None:
            await announce((await own_session(conn),))
        try:
            await enable(conn, before.subscriptions)
        except PgmigError as exc:
            raise StillDisabledError(
                exc.kind,
                f"writers can write to the {before.side} again, but not all subscriptions that the "
                f"switchover disabled are enabled again: {exc.message}",
                exc.hint,
            ) from exc
    finally:
        await conn.close()


async def _replace_others(conn: AsyncConnection, before: Before, announce: Announce | None) -> None:
    """Record the session of `conn`, then terminate those that were recorded before."""
    others = await alive(conn, before.sessions)
    if announce is not None:
        await announce((*others, await own_session(conn)))
    await end_own(conn, others, f"an earlier freeze of the {before.side}")


async def _kept_default(conn: AsyncConnection, before: Before) -> list[str]:
    """A sentence about a default that somebody set during the freeze."""
    database, value = before.database, before.read_only_default
    found = await database_default(conn, database, before.side)
    if found in {value, FROZEN}:
        return []
    shown = f"is {found}" if found else "is not set"
    return [
        f"{SETTING} of database {database} of the {before.side} {shown}: it was changed during the freeze, "
        f"so pgmig does not reset it (before the freeze: {value or 'not set'})"
    ]


async def _put_default_back(conn: AsyncConnection, before: Before) -> list[str]:
    database, value, side = before.database, before.read_only_default, before.side
    if await database_default(conn, database, side) == value:
        return []
    await set_database_default(conn, database, value, side)
    return [f"{SETTING} of database {database} of the {side} is {value or 'not set'} again"]


async def admit_readers(uri: str, before: Before, announce: Announce | None = None) -> None:
    """Allow connections again, with sessions that are read-only by default. announce: see `thaw`."""
    conn = await beside(uri, before.door, before.side)
    try:
        await _replace_others(conn, before, announce)
        await set_open(conn, before.database, accepts=True, side=before.side)
    finally:
        await conn.close()


async def database_default(conn: AsyncConnection, database: str, side: str = "source") -> str:
    """The database's setting for all roles, as set by ALTER DATABASE."""
    with translated(f"reading the {side} database's settings"):
        row = await (
            await conn.execute(
                "SELECT split_part(c, '=', 2) FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) c"
                " WHERE s.setrole = 0 AND split_part(c, '=', 1) = %s AND s.setdatabase ="
                " (SELECT oid FROM pg_catalog.pg_database WHERE datname = %s)",
                [SETTING, database],
            )
        ).fetchone()
    return str(row[0]) if row else ""


async def set_database_default(
    conn: AsyncConnection, database: str, value: str, side: str = "source"
) -> None:
    """Set the database's default, or reset it for ""."""
    with translated(f"setting the {side} database's {SETTING}"):
        name, setting = sql.Identifier(database), sql.Identifier(SETTING)
        statement = sql.SQL("ALTER DATABASE {} RESET {}").format(name, setting)
        if value:
            statement = sql.SQL("ALTER DATABASE {} SET {} = {}").format(name, setting, sql.Literal(value))
        await conn.execute(statement)


async def clock(conn: AsyncConnection, side: str = "source") -> float:
    """The server's clock, in Unix seconds."""
    with translated(f"reading the {side}'s clock"):
        row = await (await conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8")).fetchone()
    assert row is not None
    return float(row[0])
