"""After the decision: keep the old source closed, watch it, and open it again on request.

The source can be written to only after somebody opened it by hand or with `unfreeze`. Such changes exist
only on the source, because nothing applies them. pgmig reports them in the event log as an alarm with tables
and numbers. They also make `cleanup` fail, because it would drop the slot that they are read from.
"""

from __future__ import annotations

import asyncio
import logging

from services.coordinator.migration.state import Migration
from services.coordinator.operations.undo import claiming, thaw_recorded
from services.coordinator.pipeline.parts import Context
from services.shared.model import (
    ErrorKind,
    EventLevel,
    MigrationPhase,
    PgmigError,
)
from services.shared.pg.freeze.closed_database import beside, is_open, writable_connection
from services.shared.pg.freeze.thaw import Before, admit_readers
from services.shared.pg.replication.late_writes import described, late_writes

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0


def check_frozen(migration: Migration) -> Before:
    """What the switchover changed on the source. Raises WRONG_PHASE unless the migration has switched over
    and the source is still frozen."""
    frozen = migration.record.freeze
    if migration.record.phase is not MigrationPhase.SWITCHED_OVER:
        raise PgmigError(
            ErrorKind.WRONG_PHASE,
            f"migration {migration.id} is in phase {migration.phase}: its source is not frozen",
            "a switchover that does not succeed lets writers in again by itself",
        )
    if frozen is None:
        raise PgmigError(
            ErrorKind.WRONG_PHASE, f"the source of migration {migration.id} is not frozen any more"
        )
    return frozen


async def unfreeze(context: Context, *, read_only: bool) -> None:
    """Open the old source to sessions again, also to those that write, or read-only by default.

    Raises WRONG_PHASE unless the source is frozen, CREDENTIALS_NEEDED, and FENCED when another coordinator
    has taken over.
    """
    migration, frozen = context.migration, check_frozen(context.migration)
    uri = await context.credentials.known_source()
    if read_only:
        await admit_readers(uri, frozen, claiming(context))
        migration.event(
            EventLevel.WARNING, "the old source accepts sessions again, which are read-only by default"
        )
    else:
        await thaw_recorded(context, uri)
        migration.thawed(context.pipeline.id.direction)
        migration.event(EventLevel.WARNING, "the old source accepts writes again: from now on both sides do")
    await context.journal.save()


async def watch(context: Context) -> None:
    """Check from time to time while the coordinator runs. Reports writes, and again when they have doubled.
    Never raises."""
    seen = 0
    while not context.migration.removed:
        try:
            found = await written(context)
        except PgmigError as exc:
            log.info("the old source of migration %s is not watched now: %s", context.migration.id, exc)
        else:
            total = sum(count for _, count in found)
            if total and total >= 2 * seen:
                context.migration.event(EventLevel.ERROR, alarm(found))
                seen = total
        await asyncio.sleep(LOOK_EVERY_S)


def alarm(found: tuple[tuple[str, int], ...]) -> str:
    return (
        "the old source was written to after the switchover; changes that the destination lacks: "
        + described(found)
    )


async def written(context: Context) -> tuple[tuple[str, int], ...]:
    """What was committed on the old source after the switchover, by table; nothing while it is closed."""
    record, names = context.migration.record, context.pipeline.id
    if record.switchover is None or context.pipeline.record.slot is None:
        return ()  # without its slot, nothing shows what was written
    uri = await context.credentials.known_source()
    if record.freeze is not None and record.freeze.database:
        side = await beside(uri, record.freeze.door)
        try:
            if not await is_open(side, record.freeze.database):
                return ()
        finally:
            await side.close()
    publications = [
        names.publication,
        *([names.inserts_publication] if context.pipeline.record.inserts_only else []),
    ]
    conn = await writable_connection(uri)
    try:
        found = await late_writes(conn, names.slot, publications, record.switchover.sentinel_lsn)
        return found or ()
    finally:
        await conn.close()
