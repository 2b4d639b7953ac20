"""The change of direction: what a switchover with --reverse and a rollback do in addition to the others.

The pipeline that works replicates from the side that serves writers to the new primary. The one in the
opposite direction is idle, and starts without a copy (services.shared.pg.reverse):

prepare   before the freeze: check that it could replicate every change. Record it, with a new epoch for its
          appliers; then create slot, publication and bookkeeping
confirm   during the freeze: they are still there, and nobody else replicates into either side
start_of  when nobody but pgmig can write to the new primary, and everything is applied: its position. The
          write that is the decision stores it
`services.coordinator.operations.settling` has what follows the decision.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from dataclasses import replace

from services.coordinator.migration.failpoints import Point, at_point
from services.coordinator.migration.outcome import Turn
from services.coordinator.migration.record import PipelineRecord, SlotRecord, TableRecord
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.pipeline import Pipelines
from services.coordinator.tables.foreign_writes import foreign_writes
from services.shared.bus.store import delete_stream
from services.shared.model import (
    ErrorKind,
    EventLevel,
    FreezeMode,
    IdentityBefore,
    Lsn,
    MigrationOptions,
    Operation,
    OperationKind,
    PgmigError,
    PipelineState,
    SwitchoverOptions,
    counted,
)
from services.shared.model.milestone import Milestone
from services.shared.model.readiness import destination_changed
from services.shared.pg.bookkeeping.milestone import set_milestone
from services.shared.pg.catalog.replica_identity import Published
from services.shared.pg.freeze.closed_database import writable_connection
from services.shared.pg.freeze.source import Freeze
from services.shared.pg.replication.connection import slot_state
from services.shared.pg.replication.publication import check_usable, publishes
from services.shared.pg.reverse.check import ReverseCheck, check_reverse
from services.shared.pg.reverse.ends import EndSessions
from services.shared.pg.reverse.others import refuse_subscriptions
from services.shared.pg.reverse.position import current_position
from services.shared.pg.reverse.prepare import PREPARE_WITHIN_S, identify, prepare_reverse
from services.shared.pg.session.connection import connection, translated
from services.shared.pg.session.standbys import check_standbys


def turns(operation: Operation | None) -> bool:
    """Whether the direction changes when the operation is decided."""
    if operation is None:
        return False
    return operation.kind is OperationKind.ROLLBACK or operation.options.reverse


def check_options(kind: OperationKind, options: SwitchoverOptions, of_migration: MigrationOptions) -> None:
    """Raises INVALID_ARGUMENT for what cannot be done with a way back."""
    if not (options.reverse or kind is OperationKind.ROLLBACK):
        return
    if options.freeze is not FreezeMode.DATABASE:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"a {_called(kind)} has to block writers: it cannot be combined with --freeze {options.freeze}",
            "leave out --freeze",
        )
    if of_migration.no_guard_destination:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            "others may write to the destination of this migration (--no-guard-destination), so both sides "
            "may have different rows",
            "switch over without --reverse",
        )


def _called(kind: OperationKind) -> str:
    return "rollback" if kind is OperationKind.ROLLBACK else "switchover with --reverse"


async def prepare(context: Context, pipelines: Pipelines, deadline: float, kind: str) -> None:
    """context: of the pipeline that works. Can be repeated until the decision. deadline: time.monotonic().
    kind: of the operation, for failpoints.

    Raises DESTINATION_NOT_READY with everything that is in the way, TRANSIENT, and FENCED.
    """
    migration, other = context.migration, context.pipeline.id.direction.opposite
    name = context.pipeline.id.opposite
    check = await checked(context)
    uris = await context.credentials.both()
    known = next((one for one in migration.record.pipelines if one.direction is other), None)
    for one in check.findings:
        migration.event(EventLevel.WARNING, f"{one.problem}; {one.remedy}")
    published = replace(check.published, altered=_altered(known, check.published))
    migration.turn_intended(_intended(context, known, published))
    await context.journal.confirm()
    await at_point(kind, Point.INTENDED)
    own = pipelines.of(other).context.pipeline
    await delete_stream(pipelines.of(other).bus, own.id.change_stream)

    async def announce(sessions: EndSessions) -> None:
        own.sessions_claimed(sessions)
        await context.journal.confirm()

    ready = await prepare_reverse(
        uris.destination_uri,
        uris.source_uri,
        own.id,
        published,
        epoch=own.record.applier_epoch,
        options=migration.record.options,
        within_s=max(1.0, min(PREPARE_WITHIN_S, deadline - time.monotonic())),
        earlier=own.record.sessions,
        announce=announce,
    )
    own.slot_ready(SlotRecord(ready.consistent_lsn, ready.system_identifier, ready.timeline))
    await context.journal.save()
    await at_point(kind, Point.PREPARED)
    tables = counted(len(ready.published), "table")
    migration.event(
        EventLevel.INFO, f"changes of {tables} of the {name.publisher} can be replicated back from now on"
    )


async def checked(context: Context) -> ReverseCheck:
    """Whether the pipeline in the opposite direction could replicate every change. Changes nothing. context:
    of the pipeline that works. Raises DESTINATION_NOT_READY with everything that is in the way."""
    await check_equal(context)
    uris, record = await context.credentials.both(), context.pipeline.record
    name = context.pipeline.id.opposite
    found = await check_reverse(
        uris.destination_uri,
        uris.source_uri,
        name,
        options=context.migration.record.options,
        incomplete=(*record.inserts_only, *record.copied_only),
        local_only=True,
    )
    if found.blocking:
        raise PgmigError(
            ErrorKind.DESTINATION_NOT_READY,
            f"changes of the {name.publisher} could not be replicated back: "
            + "; ".join(one.problem for one in found.blocking),
            "; ".join(dict.fromkeys(one.remedy for one in found.blocking)),
        )
    if context.migration.record.options.confirm_after_standby:
        async with connection(uris.source_uri, name.subscriber) as conn:
            await check_standbys(conn, name.subscriber, "switch over without a way back")
    return found


async def check_equal(context: Context) -> None:
    """Raise DESTINATION_NOT_READY if both sides may have different rows: a way back would keep that."""
    skipped, migration = context.pipeline.record.skipped, context.migration
    if skipped:
        lines = ", ".join(str(one.lsn) for one in skipped)
        raise PgmigError(
            ErrorKind.DESTINATION_NOT_READY,
            f"transactions were skipped, so both sides have different rows: {lines}",
            f"both sides cannot be opened to writers: abort migration {migration.id}, then clone again"
            if migration.record.options.bidirectional
            else "a migration with skipped transactions has no way back: switch over without --reverse"
            if migration.record.active.value == "forward"
            else f"correct the rows by hand; then end the migration with `pgmig-cli finalize --id "
            f"{migration.id}`",
        )
    if found := await foreign_writes(context):
        reason = destination_changed(str(migration.id), found, blocking=True)
        raise PgmigError(ErrorKind.DESTINATION_NOT_READY, reason.text, reason.remedy)


def _altered(known: PipelineRecord | None, published: Published) -> tuple[IdentityBefore, ...]:
    """Also those that an earlier call has altered already."""
    before = () if known is None or known.retired else known.altered
    found: Iterable[IdentityBefore] = (*before, *published.altered)
    return tuple({one.table: one for one in reversed([*found])}.values())


def _intended(context: Context, known: PipelineRecord | None, published: Published) -> PipelineRecord:
    """The pipeline in the opposite direction, idle. Its tables are those of the one that works."""
    own = context.pipeline.record
    copied = tuple(
        TableRecord(one.table, one.rows_estimated, one.bytes_estimated, copied=True) for one in own.tables
    )
    fresh = PipelineRecord(own.direction.opposite, PipelineState.IDLE, time.time())
    known, operation = known or fresh, context.migration.operations.current
    return replace(
        fresh,
        state_since=known.state_since,
        published=published.whole,
        altered=published.altered,
        sends_generated=published.sends_generated,
        tables=copied,
        applier_epoch=secrets.token_hex(8),
        guard=known.guard,
        watched=known.watched,
        turn=known.turn,
        sessions=known.sessions,
        prepared_by=operation.operation_id if operation is not None else "",
    )


async def confirm(context: Context, pipelines: Pipelines, uris: Credentials, freeze: Freeze) -> Milestone:
    """During the freeze. uris: of the operation. Returns what the side that is left must have from now on:
    nobody but pgmig writes there any more. Raises SWITCHOVER_FAILED if somebody has removed slot or
    publication, or created a subscription."""
    other = pipelines.of(context.pipeline.id.direction.opposite)
    own = other.context.pipeline
    side, name = own.id.publisher, own.id.slot
    await refuse_subscriptions(freeze.session, own.id.subscriber)
    async with connection(uris.destination_uri, "destination") as conn:
        await refuse_subscriptions(conn, side)
        with translated(f"checking replication slot {name}"):
            slot = await slot_state(conn, name)
        check_usable(slot, name, Lsn(0))
        publication, tables = own.id.publication, own.record.published
        if not await publishes(conn, publication, tables, generated=own.record.sends_generated):
            raise PgmigError(
                ErrorKind.SWITCHOVER_FAILED,
                f"publication {publication} of the {side} is not as pgmig has created it",
                "writes are not blocked any more; see who alters it, then try again",
            )
    return await set_milestone(freeze.session, own.id)


async def start_of(
    context: Context, pipelines: Pipelines, uris: Credentials, milestone: Milestone | None
) -> Turn:
    """Where the pipeline in the opposite direction starts. Everything of the one that works is on the new
    primary's disk, and nobody else has written there since. uris: of the operation. milestone: from
    `confirm`. Raises SWITCHOVER_FAILED unless it is the server, on the timeline, on which the way back was
    prepared."""
    other = pipelines.of(context.pipeline.id.direction.opposite)
    own = other.context.pipeline
    prepared = own.record.slot
    assert prepared is not None
    conn = await writable_connection(uris.destination_uri, side=own.id.publisher)
    try:
        start = await current_position(conn)
    finally:
        await conn.close()
    found = await identify(uris.destination_uri, own.id)
    if (found.system_identifier, found.timeline) != (prepared.system_identifier, prepared.timeline):
        raise _replaced(
            f"the {own.id.publisher} is system {found.system_identifier} on timeline {found.timeline}; "
            f"replication was prepared on system {prepared.system_identifier}, timeline {prepared.timeline}"
        )
    if start < prepared.consistent_lsn:
        raise _replaced(
            f"the {own.id.publisher} is at {start}, before its replication slot at {prepared.consistent_lsn}"
        )
    return Turn(replace(prepared, consistent_lsn=start), secrets.token_hex(8), milestone)


def _replaced(what: str) -> PgmigError:
    return PgmigError(
        ErrorKind.SWITCHOVER_FAILED,
        what,
        "writes are not blocked any more; the server was promoted, restored or replaced meanwhile: try again",
    )
