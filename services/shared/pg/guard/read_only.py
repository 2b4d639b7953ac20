"""A destination that is read-only by default, for everybody but pgmig.

`ALTER DATABASE ... SET default_transaction_read_only = on` keeps applications from writing to the
destination by mistake before the switchover. It is a default: a session or a role can override it. pgmig's
own sessions on a destination do so (services.shared.pg.session.connection). Sessions that began before it
keep theirs.

Several pipelines may write to one database. So each of them has a row in `pgmig.guard`, which is written in
the transaction that sets the default. All of them know the setting of before, and the last one restores it.
A row is kept until sessions that began under the guard have ended: they would stay read-only until they
reconnect, and a connection pool would keep them. `lifted` in the row says which sessions these are.

A coordinator that stops responding before it sets the default must not set it after another one has lifted
it: nobody would lift it again. One that stops responding while it lifts it must not end sessions that began
after another one has lifted it. So each session that sets or lifts it is recorded before, and `lift_guard`
ends the recorded ones first. Before it ends sessions of others, it locks the row again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import PipelineId
from services.shared.pg.bookkeeping.schema import alone, book
from services.shared.pg.freeze.sessions import OwnSession, alive, end_own, own_session
from services.shared.pg.freeze.thaw import FROZEN, SETTING, clock, database_default, set_database_default
from services.shared.pg.session.connection import translated

NAMED_AT_MOST = 3
_SIDE = "destination"
_DOING = "guarding the destination against writes of others"

# Client sessions of others. A role without pg_read_all_stats does not see when other roles' sessions began.
_OTHERS: LiteralString = (
    "SELECT a.pid, coalesce(a.usename, '')::text, coalesce(a.application_name, '')"
    " FROM pg_catalog.pg_stat_activity a WHERE a.datname = current_database() AND a.usesysid IS NOT NULL"
    " AND a.pid <> pg_catalog.pg_backend_pid()"
    " AND coalesce(a.backend_type, 'client backend') = 'client backend'"
    " AND pg_catalog.left(coalesce(a.application_name, ''), 6) <> 'pgmig '"
)
_BEFORE: LiteralString = " AND a.backend_start < pg_catalog.to_timestamp(%(since)s) ORDER BY a.pid"
_UNDER: LiteralString = (
    " AND coalesce(a.backend_start BETWEEN pg_catalog.to_timestamp(%(since)s)"
    " AND pg_catalog.to_timestamp(%(until)s), true) ORDER BY a.pid"
)


@dataclass(frozen=True, slots=True)
class Guard:
    """database: its name. read_only_default: its own setting before the guard, "" if it had none. at: the
    server's clock just before, Unix seconds. sessions: of pgmig, that may still set or lift the guard."""

    database: str
    read_only_default: str
    at: float
    sessions: tuple[OwnSession, ...] = ()


@dataclass(frozen=True, slots=True)
class Lifted:
    """lines: what was done, a sentence each. warnings: what is not as before the guard, and what to do."""

    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Row:
    pipeline: str
    instance: str
    read_only_default: str
    lifted: float | None


async def before_guard(conn: AsyncConnection) -> Guard:
    """The state that `lift` restores. conn: the session that will set the guard. The bookkeeping exists.
    Proves that our role may set it, in a transaction that is rolled back. Raises PERMISSION."""
    with translated(_DOING):
        row = await (await conn.execute("SELECT pg_catalog.current_database()::text")).fetchone()
    assert row is not None
    database = str(row[0])
    async with alone(conn, _DOING):
        default = await _default_before(conn, database, await _rows(conn))
    async with conn.transaction(force_rollback=True):
        await set_database_default(conn, database, FROZEN, _SIDE)
    return Guard(database, default, await clock(conn, _SIDE), (await own_session(conn),))


async def _default_before(conn: AsyncConnection, database: str, rows: Sequence[_Row]) -> str:
    """The database's setting before anybody guarded it."""
    for row in rows:
        if row.lifted is None:
            return row.read_only_default
    return await database_default(conn, database, _SIDE)


async def lifting(conn: AsyncConnection, guard: Guard) -> Guard:
    """With the session of `conn`, which is about to lift it, and without those that have ended."""
    others = await alive(conn, guard.sessions)
    return replace(guard, sessions=tuple(dict.fromkeys((*others, await own_session(conn)))))


def opening_statement(guard: Guard) -> str:
    """SQL that lifts the guard by hand."""
    name, setting = sql.Identifier(guard.database), sql.SQL("default_transaction_read_only")
    statement = sql.SQL("ALTER DATABASE {} RESET {}").format(name, setting)
    if guard.read_only_default:
        value = sql.Literal(guard.read_only_default)
        statement = sql.SQL("ALTER DATABASE {} SET {} = {}").format(name, setting, value)
    return statement.as_string(None)


async def end_setters(conn: AsyncConnection, guard: Guard) -> tuple[OwnSession, ...]:
    """End sessions of pgmig that may still set the guard, except that of `conn`."""
    own = await own_session(conn)
    others = [one for one in await alive(conn, guard.sessions) if one != own]
    await end_own(conn, others, "an earlier guard of the destination")
    return (own,)


async def set_guard(conn: AsyncConnection, pipeline: PipelineId, instance: str, guard: Guard) -> str | None:
    """Make new sessions read-only by default. Returns sessions of others that began before it, for messages.
    None if this migration has set or lifted it before: then nothing is done. instance: of the migration,
    because ids are used again."""
    async with alone(conn, _DOING):
        rows = await _rows(conn)
        if any((row.pipeline, row.instance) == (str(pipeline), instance) for row in rows):
            return None
        default = await _default_before(conn, guard.database, rows)
        await conn.execute(
            sql.SQL(
                "INSERT INTO {} (pipeline, instance, read_only_default) VALUES (%s, %s, %s)"
                " ON CONFLICT (pipeline) DO UPDATE SET instance = excluded.instance,"
                " read_only_default = excluded.read_only_default, lifted = NULL"
            ).format(book("guard")),
            [str(pipeline), instance, default],
        )
        await set_database_default(conn, guard.database, FROZEN, _SIDE)
    older = await _others(conn, _BEFORE, {"since": await clock(conn, _SIDE)})
    return _named([named for _, named in older])


async def lift_guard(conn: AsyncConnection, pipeline: PipelineId, instance: str, guard: Guard) -> Lifted:
    """Restore the default, then end the sessions of others that began under the guard. Can be repeated.
    guard: with the sessions of pgmig that may still set or lift it, which are ended first.

    A default that is neither the guard's nor the one before was set by somebody else in the meantime. It is
    kept, as it is while another pipeline guards the database.
    """
    await end_setters(conn, guard)
    async with _alone_if_books(conn) as books:
        rows = await _rows(conn) if books else []
        own = next((row for row in rows if (row.pipeline, row.instance) == (str(pipeline), instance)), None)
        others = [row.pipeline for row in rows if row is not own and row.lifted is None]
        if books and own is None:  # it was lifted, or never set
            return Lifted()
        lines: list[str] = []
        warnings: list[str] = []
        until = own.lifted if own is not None else None
        if until is None:
            guard = replace(guard, read_only_default=own.read_only_default) if own is not None else guard
            lines, warnings = await _restored(conn, guard, others)
            until = await clock(conn, _SIDE) if lines else 0.0
            if own is not None:
                await conn.execute(
                    sql.SQL("UPDATE {} SET lifted = %s WHERE pipeline = %s").format(book("guard")),
                    [until, str(pipeline)],
                )
    if until and lines:  # restored just now: sessions that began before the commit may be read-only
        until = await clock(conn, _SIDE)
    async with alone(conn, _DOING):
        if own is None or await _still_lifting(conn, pipeline, instance):
            ended, refused = await _end_under(conn, guard.at, until) if until else (0, [])
            lines += [f"sessions on the destination that were read-only were ended: {ended}"] if ended else []
            if refused:
                warnings.append(
                    "sessions on the destination stay read-only until they reconnect, because our role may "
                    f"not end them: {_named(refused)}"
                )
            if own is not None:
                await conn.execute(
                    sql.SQL("DELETE FROM {} WHERE pipeline = %s").format(book("guard")), [str(pipeline)]
                )
    return Lifted(tuple(lines), tuple(warnings))


async def _still_lifting(conn: AsyncConnection, pipeline: PipelineId, instance: str) -> bool:
    """Whether nobody else has finished lifting the guard meanwhile: sessions that began after that can
    write. Locks the row."""
    query = sql.SQL(
        "SELECT FROM {} WHERE pipeline = %s AND instance = %s AND lifted IS NOT NULL FOR UPDATE"
    ).format(book("guard"))
    return await (await conn.execute(query, [str(pipeline), instance])).fetchone() is not None


@asynccontextmanager
async def _alone_if_books(conn: AsyncConnection) -> AsyncIterator[bool]:
    """Whether the bookkeeping has the table. In a transaction that excludes other pipelines' guards."""
    async with alone(conn, _DOING):
        row = await (
            await conn.execute("SELECT pg_catalog.to_regclass('pgmig.guard') IS NOT NULL")
        ).fetchone()
        yield row is not None and bool(row[0])


async def _restored(
    conn: AsyncConnection, guard: Guard, others: Sequence[str]
) -> tuple[list[str], list[str]]:
    """What was done, and warnings. Nothing was done unless the default was restored."""
    database, value = guard.database, guard.read_only_default
    found = await database_default(conn, database, _SIDE)
    whose = f"{SETTING} of database {database} of the destination"
    if others:
        named = ", ".join(sorted(others))
        return [], [
            f"{whose} stays on, because {named} guards it too: end or clean up that migration. If it does "
            "not exist any more, delete its row from pgmig.guard and run ALTER DATABASE "
            f"{database} RESET {SETTING}"
        ]
    if found == value:
        return [], []
    if found != FROZEN:
        shown = f"is {found}" if found else "is not set"
        return [], [
            f"{whose} {shown}: it was changed during the migration, so pgmig does not reset it (before: "
            f"{value or 'not set'})"
        ]
    await set_database_default(conn, database, value, _SIDE)
    return [f"{whose} is {value or 'not set'} again"], []


async def _end_under(conn: AsyncConnection, since: float, until: float) -> tuple[int, list[str]]:
    """End sessions of others that began in this time. Returns their number, and those that our role may not
    end."""
    ended, refused = 0, []
    for pid, named in await _others(conn, _UNDER, {"since": since, "until": until}):
        try:
            async with conn.transaction():
                await conn.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [pid])
            ended += 1
        except psycopg.errors.InsufficientPrivilege:
            refused.append(named)
    return ended, refused


async def not_guarded(conn: AsyncConnection, guard: Guard) -> str:
    """Why others may be able to write in spite of the guard, for messages. "" if nothing is known."""
    default = await database_default(conn, guard.database, _SIDE)
    if default != FROZEN:
        shown = f"is {default}" if default else "is not set"
        return f"{SETTING} of database {guard.database} {shown}: somebody has changed it"
    older = [named for _, named in await _others(conn, _BEFORE, {"since": guard.at})]
    return f"sessions that began before the migration are not read-only: {_named(older)}" if older else ""


async def guarded_by(conn: AsyncConnection) -> list[str]:
    """The pipelines that guard the connected database now."""
    with translated(_DOING):
        row = await (
            await conn.execute("SELECT pg_catalog.to_regclass('pgmig.guard') IS NOT NULL")
        ).fetchone()
        if row is None or not row[0]:
            return []
        return [row.pipeline for row in await _rows(conn) if row.lifted is None]


async def other_guards(conn: AsyncConnection, pipeline: PipelineId) -> tuple[str, ...]:
    """Those of other migrations."""
    own = {str(one) for one in (pipeline.migration.forward, pipeline.migration.reverse)}
    return tuple(one for one in await guarded_by(conn) if one not in own)


async def _rows(conn: AsyncConnection) -> list[_Row]:
    query = sql.SQL("SELECT pipeline, instance, read_only_default, lifted FROM {} ORDER BY 1")
    cursor = await conn.execute(query.format(book("guard")))
    return [_Row(*row) for row in await cursor.fetchall()]


async def _others(
    conn: AsyncConnection, which: LiteralString, given: dict[str, float]
) -> list[tuple[int, str]]:
    with translated("looking for other sessions on the destination"):
        rows = await (await conn.execute(_OTHERS + which, given)).fetchall()
    return [
        (int(pid), f"process {pid} ({application or 'unnamed'}, role {role or 'unknown'})")
        for pid, role, application in rows
    ]


def _named(sessions: Sequence[str]) -> str:
    more = f" and {len(sessions) - NAMED_AT_MOST} more" if len(sessions) > NAMED_AT_MOST else ""
    return ", ".join(sessions[:NAMED_AT_MOST]) + more
