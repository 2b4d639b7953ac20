"""The other sessions of a database: how they are found, and how they are terminated.

Only process ids exempt a session: those of pgmig's own sessions and of the walsender of its slot.
`application_name`, `usename` and other properties that a client can choose do not count. A role without
pg_read_all_stats sees only database, user and application of other roles' sessions. So nothing else decides
which sessions are terminated.

A server process that is just starting is not yet in pg_stat_activity. But from its first step, which is
before it checks whether its database accepts connections, until it becomes visible, it holds a lock on the
database, which pg_locks shows. So once a database accepts no connections, two observations prove that no
session is left: first no process holds that lock, and after that no session is visible.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import AsyncConnection

from services.shared.model import ErrorKind, PgmigError
from services.shared.model.readiness import sessions_not_endable
from services.shared.pg.session.connection import translated

NAMED_AT_MOST = 3
STUBBORN_S = 3.0
"""Seconds to wait until sessions that our role may not terminate end by themselves."""
_LOOK_S = 0.1
OWN_S = 10.0
"""Seconds to wait until pgmig's own sessions end."""
_POLL_S = 0.01

# Autovacuum workers have no user. Parallel workers end with their leaders.
_OTHERS: LiteralString = (
    "SELECT a.pid, coalesce(a.usename, '')::text, coalesce(a.application_name, '')"
    " FROM pg_catalog.pg_stat_activity a WHERE a.datname = %(database)s AND a.usesysid IS NOT NULL"
    " AND a.pid <> ALL (%(spared)s)"
)
_SINCE: LiteralString = " AND coalesce(a.backend_start >= pg_catalog.to_timestamp(%(moment)s), true)"
_UNTIL: LiteralString = " AND coalesce(a.backend_start <= pg_catalog.to_timestamp(%(moment)s), true)"
# The rules of pg_terminate_backend.
_NOT_OURS: LiteralString = (
    " AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles us, pg_catalog.pg_roles them"
    " WHERE us.rolname = current_user AND them.oid = a.usesysid AND (us.rolsuper OR NOT them.rolsuper AND"
    " (pg_catalog.pg_has_role(them.oid, 'USAGE') OR pg_catalog.pg_has_role('pg_signal_backend', 'USAGE'))))"
)
_LASTING: LiteralString = (
    " AND coalesce(a.backend_start < clock_timestamp() - interval '3 seconds', true)"  # STUBBORN_S
)
_STARTING: LiteralString = (
    "SELECT count(*) FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.objid"
    " WHERE l.locktype = 'object' AND l.classid = 'pg_catalog.pg_database'::pg_catalog.regclass"
    " AND l.mode = 'RowExclusiveLock' AND d.datname = %(database)s AND l.pid <> ALL (%(spared)s)"
)


@dataclass(frozen=True, slots=True)
class Other:
    """A session of another program."""

    pid: int
    user: str
    application: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.application or 'unnamed'}, role {self.user or 'unknown'})"


@dataclass(frozen=True, slots=True)
class OwnSession:
    """A session of pgmig, such that another coordinator can find it on the server.

    began: microseconds since 1970 by the server's clock. It must match too, because process ids are reused.
    """

    pid: int
    began: int


_OWN: LiteralString = (
    "SELECT a.pid, (extract(epoch FROM a.backend_start) * 1000000)::bigint"
    " FROM pg_catalog.pg_stat_activity a WHERE a.pid = pg_catalog.pg_backend_pid()"
)
_ALIVE: LiteralString = (
    " FROM pg_catalog.pg_stat_activity a JOIN unnest(%(pids)s::int[], %(began)s::bigint[]) AS s (pid, began)"
    " ON a.pid = s.pid AND (extract(epoch FROM a.backend_start) * 1000000)::bigint = s.began"
)


async def own_session(conn: AsyncConnection) -> OwnSession:
    with translated("checking our session on the source"):
        row = await (await conn.execute(_OWN)).fetchone()
    assert row is not None
    return OwnSession(int(row[0]), int(row[1]))


async def alive(conn: AsyncConnection, sessions: Collection[OwnSession]) -> tuple[OwnSession, ...]:
    """Those of pgmig's sessions that still exist, in any database of the server."""
    if not sessions:
        return ()
    with translated("looking for sessions of an earlier freeze"):
        rows = await (await conn.execute("SELECT s.pid, s.began" + _ALIVE, _given(sessions))).fetchall()
    return tuple(OwnSession(int(pid), int(began)) for pid, began in rows)


async def end_own(
    conn: AsyncConnection,
    sessions: Collection[OwnSession],
    whose: str = "an earlier freeze of the source",
) -> None:
    """Terminate exactly these sessions, and return when they are gone. Then their statements either have
    finished or never will. Raises TRANSIENT if one does not end, PERMISSION if our role may not terminate it.
    """
    deadline = time.monotonic() + OWN_S
    while left := await alive(conn, sessions):
        with translated(f"ending the sessions of {whose}"):
            await conn.execute("SELECT pg_catalog.pg_terminate_backend(s.pid)" + _ALIVE, _given(left))
        if time.monotonic() > deadline:
            raise PgmigError(
                ErrorKind.TRANSIENT,
                f"sessions of {whose} do not end: process " + ", ".join(str(one.pid) for one in left),
                "see what these processes wait for",
            )
        await asyncio.sleep(_POLL_S)  # a server process does not report its end


def _given(sessions: Collection[OwnSession]) -> dict[str, list[int]]:
    return {"pids": [one.pid for one in sessions], "began": [one.began for one in sessions]}


async def end_begun_before(
    conn: AsyncConnection, database: str, spared: Collection[int], moment: float, side: str = "source"
) -> int:
    """Terminate the other sessions that began at or before `moment` (the server's clock), once. Returns their
    number. side: for messages.

    Raises PERMISSION if our role may not terminate one of them.
    """
    return await _end_once(conn, _OTHERS + _UNTIL, _moment(database, spared, moment), side)


async def end_begun_after(
    conn: AsyncConnection, database: str, spared: Collection[int], moment: float, side: str = "source"
) -> int:
    """Same as `end_begun_before`, for sessions that began at or after `moment`."""
    return await _end_once(conn, _OTHERS + _SINCE, _moment(database, spared, moment), side)


def _moment(database: str, spared: Collection[int], moment: float) -> dict[str, object]:
    return {"database": database, "spared": list(spared), "moment": moment}


async def _end_once(
    conn: AsyncConnection, query: LiteralString, given: Mapping[str, object], side: str
) -> int:
    found = await _others(conn, query, given)
    if refused := await _end(conn, found):
        raise _may_not_end(refused, side)
    return len(found)


async def end_all(
    conn: AsyncConnection, database: str, spared: Collection[int], deadline: float, side: str = "source"
) -> int:
    """Terminate the other sessions until none is left and none is starting. Returns the number of terminated
    sessions.

    The database must not accept connections any more. deadline: time.monotonic(). Raises TIMEOUT. Raises
    PERMISSION for sessions that our role may not terminate and that do not end by themselves.
    """
    given = {"database": database, "spared": list(spared)}
    ended: set[int] = set()
    stubborn_since = 0.0
    while True:
        starting = await _starting(conn, given)  # first: those that finish starting are among the others
        found = await _others(conn, _OTHERS, given)
        if not starting and not found:
            return len(ended)
        refused = await _end(conn, found)
        ended.update(other.pid for other in found)
        now = time.monotonic()
        stubborn_since = (stubborn_since or now) if refused else 0.0
        if refused and now - stubborn_since > STUBBORN_S:
            raise _may_not_end(refused, side)
        if now > deadline:
            raise PgmigError(
                ErrorKind.TIMEOUT,
                f"sessions on the {side} do not end: {_named(found) or 'one session is still being started'}",
                "see what these processes wait for, or allow more time, then switch over again",
            )
        await asyncio.sleep(_POLL_S)  # a server process does not report its end


async def check_endable(
    conn: AsyncConnection, database: str, spared: Collection[int], side: str = "source"
) -> None:
    """Raise PERMISSION for other sessions that our role may not terminate, unless they end within STUBBORN_S.
    Terminates none."""
    given = {"database": database, "spared": list(spared)}
    deadline = time.monotonic() + STUBBORN_S
    while found := await _others(conn, _OTHERS + _NOT_OURS, given):
        if time.monotonic() > deadline:
            raise _may_not_end(found, side)
        await asyncio.sleep(_LOOK_S)  # a server process does not report its end


async def not_endable(conn: AsyncConnection, database: str, spared: Collection[int]) -> str:
    """Other sessions that our role may not terminate, for messages. "" if there are none. Sessions that have
    just begun do not count: they may be about to end, and `check_endable` waits for them as long."""
    given = {"database": database, "spared": list(spared)}
    found = await _others(conn, _OTHERS + _NOT_OURS + _LASTING, given)
    return _named(found) if found else ""


async def streaming_from(conn: AsyncConnection, slot: str) -> list[int]:
    """Process ids of the walsender that streams from `slot`: one or none."""
    with translated("looking for the session that streams from the slot"):
        cursor = await conn.execute(
            "SELECT active_pid FROM pg_catalog.pg_replication_slots"
            " WHERE slot_name = %s AND NOT temporary AND active_pid IS NOT NULL",
            [slot],
        )
        return [int(row[0]) async for row in cursor]


async def _others(conn: AsyncConnection, query: LiteralString, given: Mapping[str, object]) -> list[Other]:
    with translated("looking for other sessions on the source"):
        return [Other(*row) for row in await (await conn.execute(query, given)).fetchall()]


async def _starting(conn: AsyncConnection, given: Mapping[str, object]) -> int:
    with translated("looking for sessions that are being started on the source"):
        row = await (await conn.execute(_STARTING, given)).fetchone()
    return int(row[0]) if row else 0


async def _end(conn: AsyncConnection, others: Sequence[Other]) -> list[Other]:
    """Terminate sessions. Returns those that our role may not terminate; the others are terminated
    nevertheless."""
    refused = []
    for other in others:
        try:
            with translated("ending sessions on the source"):
                await conn.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [other.pid])
        except PgmigError as exc:
            if exc.kind is not ErrorKind.PERMISSION:
                raise
            refused.append(other)
    return refused


def _named(others: Sequence[Other]) -> str:
    more = f" and {len(others) - NAMED_AT_MOST} more" if len(others) > NAMED_AT_MOST else ""
    return ", ".join(map(str, others[:NAMED_AT_MOST])) + more


def _may_not_end(others: Sequence[Other], side: str) -> PgmigError:
    reason = sessions_not_endable(_named(others), side)
    return PgmigError(ErrorKind.PERMISSION, reason.text, reason.remedy)


async def prepared_transactions(conn: AsyncConnection, side: str = "source") -> str:
    """The prepared transactions of the database, for messages. "" if there are none."""
    with translated(f"looking for prepared transactions on the {side}"):
        rows = await (
            await conn.execute(
                "SELECT gid, owner::text, extract(epoch FROM clock_timestamp() - prepared)::int"
                " FROM pg_catalog.pg_prepared_xacts WHERE database = current_database() ORDER BY prepared"
            )
        ).fetchall()
    shown = [f'prepared transaction "{gid}" (role {owner}, for {age} s)' for gid, owner, age in rows]
    more = f" and {len(shown) - NAMED_AT_MOST} more" if len(shown) > NAMED_AT_MOST else ""
    return ", ".join(shown[:NAMED_AT_MOST]) + more
