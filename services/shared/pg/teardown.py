"""Remove what a pipeline created on both servers. Each step is idempotent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, IdentityBefore, Lsn, PgmigError, PipelineId
from services.shared.pg.bidirectional.deletions import ignore_deletions
from services.shared.pg.bookkeeping.progress import origin_progress
from services.shared.pg.catalog.replica_identity import put_back
from services.shared.pg.freeze.closed_database import inside
from services.shared.pg.replication.connection import SlotState, slot_state
from services.shared.pg.replication.late_writes import described, late_writes
from services.shared.pg.replication.publication import drop_slot
from services.shared.pg.session.connection import connection, translate, translated
from services.shared.pg.unpublished.fence import end_earlier

RELEASE_WAIT_S = 15.0
"""Seconds that a slot or an origin may stay in use after its worker was stopped."""

_POLL_S = 0.1


async def remove_from_source(
    uri: str,
    pipeline: PipelineId,
    *,
    inserts_only: bool = False,
    altered: Sequence[IdentityBefore] = (),
    database: str = "",
    door: str = "",
    after: Lsn | None = None,
    side: str = "source",
) -> list[str]:
    """Drop slot and publications, then restore the replica identity of altered tables, which need it while
    they are published. Returns what was removed. Raises SLOT_ACTIVE.

    inserts_only: there is a second publication. database,
    door: of a source that a switchover has closed; it stays closed. after: the position of the switchover's
    decision. If any transaction committed after it, raises LATE_WRITES and removes nothing. side: of the
    migration, for messages.
    """
    async with inside(uri, database, door, time.monotonic() + RELEASE_WAIT_S, side) as conn:
        return await remove_from(
            conn, pipeline, inserts_only=inserts_only, altered=altered, after=after, side=side
        )


async def remove_from(
    conn: AsyncConnection,
    pipeline: PipelineId,
    *,
    inserts_only: bool = False,
    altered: Sequence[IdentityBefore] = (),
    after: Lsn | None = None,
    side: str = "source",
) -> list[str]:
    """`remove_from_source`, with a session that may write."""
    removed = []
    names = [pipeline.publication, *([pipeline.inserts_publication] if inserts_only else [])]
    if await _remove_slot(conn, pipeline.slot, names, after, side):
        removed.append(f"replication slot {pipeline.slot} on the {side}")
    removed += [
        f"publication {name} on the {side}" for name in names if await _remove_publication(conn, name)
    ]
    return [*removed, *await put_back(conn, altered)]


async def _remove_slot(
    conn: AsyncConnection, name: str, publications: Sequence[str], after: Lsn | None, side: str
) -> bool:
    deadline = time.monotonic() + RELEASE_WAIT_S
    while (slot := await _slot(conn, name)) is not None:
        if not slot.active_pid and await _drop_unused(conn, name, publications, after):
            return True
        if time.monotonic() > deadline:
            raise PgmigError(
                ErrorKind.SLOT_ACTIVE,
                f"replication slot {name} is still in use by process {slot.active_pid} of the {side}",
                "stop the decoder that streams from it, then clean up again",
            )
        await asyncio.sleep(_POLL_S)  # the server does not report when a slot is released
    return False


async def _drop_unused(
    conn: AsyncConnection, name: str, publications: Sequence[str], after: Lsn | None
) -> bool:
    """Returns False if another session has begun to use the slot, even only to read it."""
    found = () if after is None else await late_writes(conn, name, publications, after)
    if found:
        raise _late(found)
    if found is None:
        return False
    try:
        await drop_slot(conn, name)
    except PgmigError as exc:
        if isinstance(exc.__cause__, psycopg.errors.ObjectInUse):
            return False
        raise
    return True


def _late(found: Sequence[tuple[str, int]]) -> PgmigError:
    return PgmigError(
        ErrorKind.LATE_WRITES,
        "the old source was written to after the switchover; changes that the destination lacks: "
        + described(found),
        "check them and copy them to the destination by hand; cleanup --force ignores them",
    )


async def _slot(conn: AsyncConnection, name: str) -> SlotState | None:
    with translated(f"checking replication slot {name}"):
        return await slot_state(conn, name)


async def _remove_publication(conn: AsyncConnection, name: str) -> bool:
    with translated(f"dropping publication {name}"):
        found = await (
            await conn.execute("SELECT FROM pg_catalog.pg_publication WHERE pubname = %s", [name])
        ).fetchone()
        if found is not None:
            await conn.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))
    return found is not None


async def remove_origin(uri: str, pipeline: PipelineId) -> list[str]:
    """Drop the replication origin, and the triggers that record deletions. No earlier coordinator writes
    large objects afterwards."""
    async with connection(uri, pipeline.subscriber) as conn:
        await end_earlier(conn, pipeline.migration)
        await ignore_deletions(conn, pipeline, time.monotonic() + RELEASE_WAIT_S)
        return await drop_origin(conn, pipeline)


async def drop_origin(conn: AsyncConnection, pipeline: PipelineId) -> list[str]:
    """Drop the pipeline's origin on its subscriber."""
    deadline = time.monotonic() + RELEASE_WAIT_S
    while await origin_progress(conn, pipeline) is not None:
        try:
            await conn.execute("SELECT pg_catalog.pg_replication_origin_drop(%s)", [pipeline.origin])
        except psycopg.errors.ObjectInUse as exc:
            if time.monotonic() > deadline:
                raise translate(exc, f"dropping replication origin {pipeline.origin}") from exc
            await asyncio.sleep(_POLL_S)
        except psycopg.Error as exc:
            raise translate(exc, f"dropping replication origin {pipeline.origin}") from exc
        else:
            return [f"replication origin {pipeline.origin} on the {pipeline.subscriber}"]
    return []
