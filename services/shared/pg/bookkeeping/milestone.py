"""Whether the server that a pipeline writes to has everything that was done there before (rule 83).

A failover may promote a standby that lacks the last WAL of the former primary. WAL is received in order. So a
row that was written after some work proves, on any server that has the row, that the server has this work
too: rows that were copied, indexes that were built, the last commits of a side before a switchover. The
coordinator records such a row, and each session that continues the work looks for it first.
"""

from __future__ import annotations

import secrets

from psycopg import AsyncConnection

from services.shared.model import Direction, ErrorKind, Lsn, PgmigError, PipelineId
from services.shared.model.milestone import Milestone
from services.shared.pg.bookkeeping.schema import mark_step, steps_done
from services.shared.pg.session.connection import translated

_STEP = "milestone "
_NOW = """
SELECT pg_catalog.pg_current_wal_flush_lsn()::text,
       pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)
"""


async def set_milestone(conn: AsyncConnection, pipeline: PipelineId) -> Milestone:
    """Everything that was committed before is on a server that has it. It is on the server's own disk. conn:
    in autocommit mode."""
    token = secrets.token_hex(8)
    with translated(f"marking what is done on the {pipeline.subscriber}"):
        async with conn.transaction():
            await conn.execute("SET LOCAL synchronous_commit = local")
            await mark_step(conn, pipeline, _STEP + token)
    lsn, timeline = await _now(conn, pipeline)
    return Milestone(token, timeline, lsn)


async def check_milestone(conn: AsyncConnection, pipeline: PipelineId, milestone: Milestone | None) -> int:
    """The server's timeline. Raises GAP if the server lacks the milestone. None: nothing was done yet."""
    lsn, timeline = await _now(conn, pipeline)
    if milestone is None or _STEP + milestone.token in await steps_done(conn, pipeline):
        return timeline
    side = pipeline.subscriber
    raise PgmigError(
        ErrorKind.GAP,
        f"the {side} lacks what was written there before {milestone.lsn} on timeline {milestone.timeline}: "
        f"the server that is the primary now, on timeline {timeline} at {lsn}, was promoted or restored "
        "without it",
        _hint(pipeline),
        milestone.lsn,
    )


def _hint(pipeline: PipelineId) -> str:
    if pipeline.direction is Direction.REVERSE:
        return (
            "a rollback would lose commits: end the way back with `pgmig-cli finalize`, or make a server the "
            "primary again that has them, then continue"
        )
    return (
        "copied rows or indexes are missing: clean up with `pgmig-cli cleanup --force`, then clone again, "
        "with --confirm-after-standby; or make a server the primary again that has them, then continue"
    )


async def _now(conn: AsyncConnection, pipeline: PipelineId) -> tuple[Lsn, int]:
    with translated(f"reading the WAL position of the {pipeline.subscriber}"):
        row = await (await conn.execute(_NOW)).fetchone()
    assert row is not None
    return Lsn.parse(row[0]), int(row[1], 16)
