"""The standbys of a server, and how much of its WAL they have on their disks.

Which of them count: if the server has `synchronous_standby_names`, those that a commit waits for; otherwise
all that stream from it. Standbys that are connected but have not caught up yet do not count, and neither do
sessions that stream logical changes, nor pg_receivewal and pg_basebackup, which send no position up to which
they have replayed. How far a standby has replayed is not asked for.

PostgreSQL's manual, "synchronous_standby_names" and "pg_stat_replication".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection

from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.pg.session.connection import not_ready, translated

_SENDERS: LiteralString = """
SELECT r.application_name, r.state, r.sync_state, r.flush_lsn::text
  FROM pg_catalog.pg_stat_replication r
 WHERE (r.replay_lsn IS NOT NULL OR r.state IS NULL)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s
                    WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
 ORDER BY 1, r.pid
"""
_WAITED_FOR = frozenset({"sync", "quorum"})


@dataclass(frozen=True, slots=True)
class Standbys:
    """names: of those that count. synchronous: the value of `synchronous_standby_names`. flushed: all of them
    have the WAL before it; 0/0 if none counts. hidden: our role may not see how far they are."""

    names: tuple[str, ...] = ()
    synchronous: str = ""
    flushed: Lsn = Lsn(0)
    hidden: bool = False

    @property
    def named(self) -> str:
        """For messages."""
        return ", ".join(self.names)


async def read_standbys(conn: AsyncConnection) -> Standbys:
    with translated("looking for standbys"):
        row = await (await conn.execute("SHOW synchronous_standby_names")).fetchone()
        senders = await (await conn.execute(_SENDERS)).fetchall()
    assert row is not None
    synchronous = str(row[0])
    counted = [
        (str(name), Lsn.parse(flushed))
        for name, state, sync_state, flushed in senders
        if state == "streaming" and flushed is not None and (not synchronous or sync_state in _WAITED_FOR)
    ]
    return Standbys(
        tuple(name for name, _ in counted),
        synchronous,
        min((flushed for _, flushed in counted), default=Lsn(0)),
        hidden=any(state is None for _, state, _, _ in senders),
    )


async def check_standbys(conn: AsyncConnection, side: str, instead: str) -> None:
    """Raise an error unless a standby counts. instead: what to do otherwise, for the hint."""
    found = await read_standbys(conn)
    if found.names:
        return
    if found.hidden:
        raise PgmigError(
            ErrorKind.PERMISSION,
            f"role {conn.info.user} may not see how far the standbys of the {side} are",
            f"GRANT pg_monitor TO {conn.info.user}, or {instead}",
        )
    which = "that synchronous_standby_names names" if found.synchronous else "that streams from it"
    raise not_ready(
        side,
        f"the {side} has no standby {which}, so nothing could be confirmed after a standby has it",
        f"start the standby, or {instead}",
    )


async def safe_position(conn: AsyncConnection) -> Lsn:
    """The standbys that count have the WAL of the server before it on disk. 0/0 if none counts now.

    With `synchronous_standby_names`, this waits as a commit does, which applies FIRST and ANY. conn: in
    autocommit mode; it may write.
    """
    found = await read_standbys(conn)
    if not found.names or not found.synchronous:
        return found.flushed
    return await _after_commit(conn)


async def _after_commit(conn: AsyncConnection) -> Lsn:
    """A commit that was not replicated, because somebody has cancelled its wait, comes with a warning."""
    warnings: list[str] = []

    def notice(diagnostic: psycopg.errors.Diagnostic) -> None:
        warnings.append(diagnostic.sqlstate or "")

    conn.add_notice_handler(notice)
    try:
        with translated("waiting for synchronous standbys"):
            row = await (await conn.execute("SELECT pg_catalog.pg_current_wal_insert_lsn()::text")).fetchone()
            async with conn.transaction():
                await conn.execute("SET LOCAL synchronous_commit = on")
                await conn.execute("SELECT pg_catalog.pg_logical_emit_message(true, 'pgmig', 'standbys')")
    finally:
        conn.remove_notice_handler(notice)
    assert row is not None
    return Lsn(0) if warnings else Lsn.parse(row[0])
