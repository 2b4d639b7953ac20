"""Copying and synchronizing large objects and extensions' configuration tables.

They are copied under the snapshot of the tables. Their later changes are not replicated. So a migration that
replicates changes synchronizes them in the switchover: first before the source is frozen, without a time
limit, and again during the freeze, when only the differences since then must be sent. They are sent through
the coordinator's own sessions, in blocks of bounded size.
"""

from __future__ import annotations

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.state import Migration
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.parts import Context, Workers
from services.shared.model import (
    EventLevel,
    LargeObjects,
    PipelineState,
    counted,
)
from services.shared.pg.bookkeeping.schema import mark_step, steps_done
from services.shared.pg.freeze.source import Freeze
from services.shared.pg.session.connection import connection
from services.shared.pg.session.snapshot import one_snapshot, under_snapshot
from services.shared.pg.unpublished.content import (
    Brought,
    Compared,
    Wanted,
    any_unpublished,
    bring,
    compare,
    exist,
)
from services.shared.pg.unpublished.fence import Destination, fenced_destination

UNPUBLISHED = "unpublished"


async def copied(context: Context, workers: Workers) -> bool:
    """Copy them, unless that was done. Returns False if everything must be copied again: the snapshot of the
    tables is lost, and tables and large objects would be of different moments."""
    uris, record = await context.credentials.both(), context.migration.record
    if _left_alone(context.migration):
        return True
    async with _destination(context, uris) as destination:
        if UNPUBLISHED in await steps_done(destination, context.pipeline.id):
            return True
        snapshot = await workers.snapshot.open()
        before = context.pipeline.record.snapshot_id
        if not record.options.follow and before not in {"", snapshot.identity}:
            return False  # a new snapshot gives every table a new plan
        async with (
            connection(uris.source_uri, "source") as source,
            under_snapshot(source, snapshot.snapshot_name, snapshot.xids),
        ):
            _tell(context.migration, await bring(source, destination, _wanted(context.pipeline)))
        await mark_step(destination, context.pipeline.id, UNPUBLISHED)
    return True


async def any_to_compare(context: Context) -> bool:
    """Whether the switchover has to compare them, because one of the servers has some.

    Afterwards no earlier coordinator can write them on the destination any more, even if there are none.
    """
    uris, wanted = await context.credentials.both(), _wanted(context.pipeline)
    if _left_alone(context.migration):
        return False
    async with (
        _destination(context, uris) as destination,
        connection(uris.source_uri, "source") as source,
    ):
        return await any_unpublished(source, destination, large_objects=wanted.large_objects)


async def any_on_source(context: Context, freeze: Freeze) -> bool:
    """Whether some exist now: the first one may have been created after `any_to_compare`."""
    if _left_alone(context.migration):
        return False
    wanted = _wanted(context.pipeline)
    return await exist(freeze.session, large_objects=wanted.large_objects)


async def synchronize(context: Context, freeze: Freeze | None = None) -> None:
    """Send the changes. freeze: of the source; None while it is not frozen yet."""
    uris, wanted = await context.credentials.both(), _wanted(context.pipeline)
    async with _destination(context, uris) as destination:
        if freeze is not None:
            brought = await bring(freeze.session, destination, wanted)
        else:
            async with connection(uris.source_uri, "source") as source, one_snapshot(source):
                brought = await bring(source, destination, wanted)
    _tell(context.migration, brought)


async def compared(context: Context, uris: Credentials) -> Compared:
    """What `synchronize` would send now. Changes nothing."""
    if _left_alone(context.migration):
        return Compared()
    async with (
        connection(uris.destination_uri, "destination") as destination,
        connection(uris.source_uri, "source") as source,
        one_snapshot(source),
    ):
        return await compare(source, destination, _wanted(context.pipeline))


def _destination(context: Context, uris: Credentials) -> Destination:
    return fenced_destination(uris.destination_uri, context.migration.id, context.journal.confirm)


def _left_alone(migration: Migration) -> bool:
    """Whether this migration does not include them: it copies no rows, or only those of tables."""
    options = migration.record.options
    return options.schema_only or options.data_only


def _wanted(pipeline: PipelineStatus) -> Wanted:
    options = pipeline.migration.record.options
    left = {LargeObjects.SKIP}
    if pipeline.state is not PipelineState.COPY:
        left.add(LargeObjects.COPY_ONCE)
    return Wanted(options.large_objects not in left, not options.no_owner, not options.no_acl)


def _tell(migration: Migration, brought: Brought) -> None:
    if brought.lacking:
        named = ", ".join(map(str, brought.lacking))
        migration.event(
            EventLevel.WARNING, f"extensions of the destination lack configuration tables: {named}"
        )
    if brought.tables:
        migration.event(
            EventLevel.INFO, f"copied {counted(brought.rows, 'row')} of extensions' configuration tables"
        )
    outcome = brought.large_objects
    if outcome is not None:
        removed = f", {outcome.removed} removed" if outcome.removed else ""
        migration.event(
            EventLevel.INFO,
            f"{counted(outcome.seen, 'large object')}: {outcome.written} sent ({outcome.bytes} bytes)"
            f"{removed}",
        )
