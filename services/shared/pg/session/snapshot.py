"""Read under one snapshot: one that another session exported, or the transaction's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.session.connection import translated

_GONE = (
    psycopg.errors.UndefinedObject,
    psycopg.errors.InvalidParameterValue,
    psycopg.errors.ObjectNotInPrerequisiteState,
)


@asynccontextmanager
async def under_snapshot(conn: AsyncConnection, name: str, xids: str) -> AsyncIterator[None]:
    """A read-only transaction under the snapshot. The exporting session may end during it. Raises
    SNAPSHOT_LOST.

    xids: the snapshot's txid_current_snapshot(), because a restarted server uses the same snapshot names
    again. "": not known.
    """
    gone = PgmigError(ErrorKind.SNAPSHOT_LOST, f"snapshot {name} of the source is gone")
    async with conn.transaction():
        with translated("taking the snapshot on the source"):
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            try:
                await conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(name)))
            except _GONE as exc:
                raise gone from exc
            row = await (await conn.execute("SELECT pg_catalog.txid_current_snapshot()::text")).fetchone()
        if xids and (row is None or row[0] != xids):
            raise gone
        yield


@asynccontextmanager
async def one_snapshot(conn: AsyncConnection) -> AsyncIterator[None]:
    """A read-only transaction with one snapshot: objects that it lists still exist when it reads them."""
    async with conn.transaction():
        with translated("beginning a transaction on the source"):
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield
