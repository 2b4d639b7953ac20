"""Both sides are written to: how a migration gets there, and how that ends (clone --bidirectional).

While everything is copied and the changes are replicated, only the source is written to. `open_both` runs
beside that, from the moment on when the pipeline streams:

1. The reverse pipeline is prepared, as for a change of direction (services.coordinator.operations.turning).
2. Both sides record when rows are deleted, if that decides conflicts.
3. A sentinel passes the forward pipeline: the destination has everything that the source had committed.
4. Sequences of both sides get different values (--sequence-stride), or the destination those of the source.
5. One write stores that both pipelines work, and until when each side is known to have what the other had.

`open_destination` lets others write to the destination, after every applier that does not look for conflicts
has been kept out. A coordinator that dies before step 5 leaves only what the next attempt uses or removes.
One that dies after it leaves the opening to the next coordinator.
"""

from __future__ import annotations

import asyncio
import secrets
import time

from services.coordinator.migration.failpoints import BOTH_WAYS, Point, at_point
from services.coordinator.migration.outcome import BothOpened
from services.coordinator.operations import settling, turning
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.guarding import lift, needed, unwatch_soon
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.pipeline import Pipeline, Pipelines
from services.coordinator.tables import unpublished
from services.coordinator.tables.foreign_writes import check_foreign_writes
from services.shared.model import (
    MESSAGE_PREFIX,
    Direction,
    ErrorKind,
    EventLevel,
    PgmigError,
    PipelineState,
    TableId,
)
from services.shared.model.conflicts.policy import OnConflict
from services.shared.pg.apply.fence import fence_applier, fence_others
from services.shared.pg.bidirectional.deletions import record_deletions
from services.shared.pg.bidirectional.sequences import join_sequences, set_stride
from services.shared.pg.bookkeeping.milestone import set_milestone
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.catalog.selected import choose
from services.shared.pg.catalog.sequences import SequenceSetter, list_sequences, read_sequences
from services.shared.pg.catalog.server import listing
from services.shared.pg.catalog.server_now import clock_us
from services.shared.pg.freeze.source import emit_sentinel
from services.shared.pg.reverse.prepare import PREPARE_WITHIN_S
from services.shared.pg.session.connection import connection

APPLIED_WITHIN_S = 60.0
"""How long a sentinel may take."""


async def open_both(pipelines: Pipelines) -> None:
    """Returns when it is stored that both pipelines work. Can be repeated until then. Raises
    DESTINATION_NOT_READY or SOURCE_NOT_READY with everything that is in the way, TIMEOUT, TRANSIENT, and
    FENCED."""
    forward = pipelines.active
    context, migration = forward.context, forward.context.migration
    while context.pipeline.state is not PipelineState.STREAMING:
        await migration.changed()
    try:
        await _open(forward, pipelines)
    except PgmigError as exc:
        if not exc.policy.retry and exc.kind is not ErrorKind.FENCED:
            await settling.withdraw(pipelines)  # an operator is needed, and the slot would keep WAL
        raise


async def _open(forward: Pipeline, pipelines: Pipelines) -> None:
    context, migration = forward.context, forward.context.migration
    await turning.prepare(context, pipelines, time.monotonic() + PREPARE_WITHIN_S, BOTH_WAYS)
    uris = await context.credentials.both()
    await _record_deletions(pipelines, uris)
    if await unpublished.any_to_compare(context):
        await unpublished.synchronize(context)
        text = "large objects and configuration tables of extensions are not replicated from now on"
        migration.event(EventLevel.WARNING, f"{text}: their changes stay on the side where they are made")
    try:
        seen_by_destination = await send_sentinel(forward, uris)
    except TimeoutError as exc:
        raise PgmigError(
            ErrorKind.TRANSIENT,
            f"the destination did not catch up within {APPLIED_WITHIN_S:g} s, and is not opened yet",
        ) from exc
    await _set_sequences(context, uris)
    async with connection(uris.source_uri, "source") as conn:
        of_source = await set_milestone(conn, context.pipeline.id.opposite)
    async with connection(uris.destination_uri, "destination") as conn:
        of_destination = await set_milestone(conn, context.pipeline.id)
        seen_by_source = await clock_us(conn)
    await check_foreign_writes(context, open_ones=True)
    await forward.workers.staffing.release()
    epoch = secrets.token_hex(8)
    await context.journal.confirm()
    migration.both_opened(BothOpened(seen_by_source, seen_by_destination, epoch, of_destination, of_source))
    await context.journal.save(strict=True)
    await at_point(BOTH_WAYS, Point.TURNED)


async def _record_deletions(pipelines: Pipelines, uris: Credentials) -> None:
    """On both sides. Only the times of deletions need that."""
    if pipelines.migration.record.options.on_conflict is not OnConflict.LAST_UPDATE_WINS:
        return
    for direction, uri in (
        (Direction.FORWARD, uris.destination_uri),
        (Direction.REVERSE, uris.source_uri),
    ):
        context = pipelines.of(direction).context
        status = context.pipeline
        await context.journal.confirm()
        async with connection(uri, status.id.subscriber) as conn:
            await record_deletions(conn, status.id, status.record.published)


async def send_sentinel(pipeline: Pipeline, uris: Credentials) -> int:
    """Wait until a sentinel is on the disk of the pipeline's destination. Returns when it was written, by
    the clock of its source, in microseconds since the Unix epoch: everything that was committed there until
    then has arrived. uris: of the pipeline. Raises TimeoutError, and the error that ends the pipeline's
    phase."""
    status, reports, token = pipeline.context.pipeline, pipeline.workers.reports, secrets.token_hex(8)
    async with connection(uris.source_uri, status.id.publisher) as conn:
        written = await clock_us(conn)
        await emit_sentinel(conn, MESSAGE_PREFIX, f"{status.id}:{token}")
    async with asyncio.timeout(APPLIED_WITHIN_S):
        await reports.until(lambda: token in reports.sentinels or reports.fatal is not None)
    if token not in reports.sentinels:
        assert reports.fatal is not None
        raise reports.fatal
    del reports.sentinels[token]
    return written


async def _set_sequences(context: Context, uris: Credentials) -> None:
    migration, pipeline = context.migration, context.pipeline.id
    async with (
        connection(uris.source_uri, "source") as source,
        connection(uris.destination_uri, "destination") as destination,
    ):
        chosen = await choose(source, migration.record.options)
        if migration.record.options.sequence_stride:
            names = await list_sequences(source, "source", chosen)
            await set_stride(source, destination, pipeline, names, context.journal.confirm)
            return
        setter = await SequenceSetter.claim(destination, pipeline)
        await context.journal.confirm()  # a coordinator that was replaced would claim them last
        values = await read_sequences(source, "source", chosen)
        await setter.set(destination, values)
    if values:
        migration.event(
            EventLevel.WARNING,
            "sequences of both sides go on from the same values: if both hand out values, rows conflict "
            "(--sequence-stride prevents that)",
        )


async def open_destination(pipelines: Pipelines) -> None:
    """Let others write to the destination. Can be repeated. Raises CREDENTIALS_NEEDED, FENCED, BROKER and the
    server's errors."""
    context = pipelines.of(Direction.FORWARD).context
    uris = await context.credentials.both()
    await context.journal.confirm()
    async with connection(uris.destination_uri, "destination") as conn:
        await fence_others(conn, context.pipeline.id, context.pipeline.record.applier_epoch)
    if not needed(context.pipeline):
        return
    await lift(context)
    await at_point(BOTH_WAYS, Point.OPENED)
    await context.journal.save()
    await unwatch_soon(context)
    await context.journal.save()
    context.migration.event(EventLevel.INFO, "both sides are open to writers")


async def exchange(pipelines: Pipelines) -> None:
    """Wait until each side has what the other one had committed. Raises TIMEOUT, CREDENTIALS_NEEDED, and the
    error that ends the phase of a pipeline."""
    working = [pipelines.of(one.direction) for one in pipelines.migration.record.working]
    await pipelines.active.context.credentials.check_known()
    arriving = [send_sentinel(one, await one.context.credentials.both()) for one in working]
    try:
        await asyncio.gather(*arriving)
    except TimeoutError as exc:
        raise PgmigError(
            ErrorKind.TIMEOUT,
            "what one of the sides has committed has not arrived on the other one within "
            f"{APPLIED_WITHIN_S:g} s",
            "see the lag in `pgmig-cli status`, and try again when it is small; `abort` does not wait",
        ) from exc


async def part(pipelines: Pipelines) -> None:
    """After the end of both pipelines was stored and their workers were released: no applier writes any more,
    and each side may go on alone with its sequences. What fails is a warning. Can be repeated."""
    migration = pipelines.migration
    if not migration.record.opened_both or migration.record.parted:
        return
    try:
        left = await _part(pipelines)
    except PgmigError as exc:
        if exc.kind is ErrorKind.FENCED:
            raise
        why = exc.message
    else:
        why = f"our role does not own {listing(left)}" if left else ""
        migration.parted()
    if why:
        migration.event(
            EventLevel.WARNING,
            f"the next values of sequences may have been used by the other side ({why}): compare them before "
            "applications use this side alone",
        )


async def _part(pipelines: Pipelines) -> tuple[TableId, ...]:
    forward = pipelines.of(Direction.FORWARD).context
    await forward.credentials.check_known()
    uris = await forward.credentials.both()
    async with (
        connection(uris.source_uri, "source") as source,
        connection(uris.destination_uri, "destination") as destination,
    ):
        await forward.journal.confirm()
        for conn in (source, destination):
            await ensure_bookkeeping(conn)
        await fence_applier(source, forward.pipeline.id.opposite, secrets.token_hex(8))
        await fence_applier(destination, forward.pipeline.id, secrets.token_hex(8))
        chosen = await choose(source, forward.migration.record.options)
        names = await list_sequences(source, "source", chosen)
        return await join_sequences(source, destination, forward.pipeline.id, names)
