"""Only one session at a time synchronizes the destination's large objects and extensions' tables.

A coordinator that stops responding during the synchronization may be replaced. When it continues, the
destination may already be in use. Then data that it has read from the source would replace, or remove, data
that the application has written since. So the session that writes holds an advisory lock, and the next
coordinator that acquires the lock terminates the session that held it before. After that the store is asked
whether another coordinator has taken over.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import LiteralString

from psycopg import AsyncConnection

from services.shared.model import ErrorKind, MigrationId, PgmigError
from services.shared.pg.session.connection import translated
from services.shared.pg.unpublished.content import silent_destination

ENDED_WITHIN_S = 10.0
_LOOK_S = 0.02
_DOING = "keeping other coordinators from the destination's large objects"

Destination = AbstractAsyncContextManager[AsyncConnection]

Confirm = Callable[[], Awaitable[None]]
"""Raises FENCED when another coordinator has taken over."""

_END_HOLDERS: LiteralString = (
    "SELECT l.pid, pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l"
    " WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted"
    " AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
    " AND (l.classid::pg_catalog.int8 << 32 | l.objid::pg_catalog.int8) = %s"
)


@asynccontextmanager
async def fenced_destination(
    uri: str, migration: MigrationId, confirm: Confirm
) -> AsyncIterator[AsyncConnection]:
    """A session on the destination that is terminated when another coordinator opens such a session.

    Read the source only within the block. Raises FENCED if another coordinator has taken over, and TRANSIENT
    if the other coordinator's session does not end.
    """
    async with silent_destination(uri) as conn:
        await end_earlier(conn, migration, confirm)
        await confirm()
        yield conn


async def end_earlier(conn: AsyncConnection, migration: MigrationId, confirm: Confirm | None = None) -> None:
    """Acquire the lock with the session of `conn`, and terminate the session that holds it. confirm: awaited
    before any session is terminated."""
    key, deadline = _key(migration), time.monotonic() + ENDED_WITHIN_S
    while not await _locked(conn, key):
        if confirm is not None:
            await confirm()
        with translated(_DOING):
            holders = await (await conn.execute(_END_HOLDERS, [key])).fetchall()
        if time.monotonic() > deadline:
            named = ", ".join(str(pid) for pid, _ in holders)
            raise PgmigError(
                ErrorKind.TRANSIENT,
                f"the session of an earlier coordinator on the destination does not end: process {named}",
                "see what it waits for in pg_stat_activity",
            )
        await asyncio.sleep(_LOOK_S)  # a server process that ends does not report it


async def _locked(conn: AsyncConnection, key: int) -> bool:
    with translated(_DOING):
        row = await (await conn.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", [key])).fetchone()
    return row is not None and bool(row[0])


def _key(migration: MigrationId) -> int:
    text = f"pgmig unpublished {migration}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), signed=True)
