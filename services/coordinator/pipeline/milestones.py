"""What the side that a pipeline writes to must have: recorded when a phase ends, looked for when one
begins.

The side's server may be replaced at any time. A phase that has begun on one timeline of it and ends on
another one is repeated, because its work may be partly missing on the promoted server (rule 83).
"""

from __future__ import annotations

import asyncio

from services.coordinator.pipeline.parts import Context
from services.shared.model import ErrorKind, EventLevel, PgmigError
from services.shared.model.milestone import Milestone
from services.shared.pg.bookkeeping.milestone import check_milestone, set_milestone
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.freeze.closed_database import writable_connection
from services.shared.pg.session.connection import Connection
from services.shared.pg.session.standbys import read_standbys, safe_position

STANDBYS_LOOK_S = 0.2


async def check(context: Context) -> int:
    """The timeline of the side that the pipeline writes to. Raises GAP if it lacks what was done there."""
    uris, pipeline = await context.credentials.both(), context.pipeline
    conn = await writable_connection(uris.destination_uri, side=pipeline.id.subscriber)
    try:
        return await check_milestone(conn, pipeline.id, pipeline.record.milestone)
    finally:
        await conn.close()


async def reach(context: Context, began_on: int) -> None:
    """The work of a phase is done. With --confirm-after-standby, wait until standbys have it. began_on: the
    timeline on which the phase began. Raises PROMOTED if it is another one now."""
    uris, pipeline = await context.credentials.both(), context.pipeline
    side = pipeline.id.subscriber
    conn = await writable_connection(uris.destination_uri, side=side)
    try:
        await ensure_bookkeeping(conn)
        milestone = await set_milestone(conn, pipeline.id)
        if milestone.timeline != began_on:
            raise PgmigError(
                ErrorKind.PROMOTED,
                f"the {side} was promoted to timeline {milestone.timeline} during phase {pipeline.state}, "
                "which is checked again",
            )
        if context.migration.record.options.confirm_after_standby:
            await _await_standbys(context, conn, milestone)
    finally:
        await conn.close()
    pipeline.milestone_reached(milestone)


async def _await_standbys(context: Context, conn: Connection, milestone: Milestone) -> None:
    side, told = context.pipeline.id.subscriber, False
    while True:
        found = await read_standbys(conn)
        if not told and (not found.names or found.flushed < milestone.lsn):
            told = True
            whom = (
                f"the standbys of the {side} ({found.named})" if found.names else f"a standby of the {side}"
            )
            context.migration.event(
                EventLevel.INFO if found.names else EventLevel.WARNING,
                f"waiting until {whom} has received everything before {milestone.lsn}",
            )
        if await safe_position(conn) >= milestone.lsn:
            return
        await asyncio.sleep(STANDBYS_LOOK_S)
