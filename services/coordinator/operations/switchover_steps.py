"""The steps of a switchover. Each raises an error when it fails.

services.coordinator.operations.switchover defines their order, and rolls back after a failed step.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field

from services.coordinator.migration.failpoints import Point, at_point
from services.coordinator.operations import turning
from services.coordinator.operations.certificate import draft
from services.coordinator.operations.evidence import Evidence
from services.coordinator.operations.fence import check_nothing_behind, opened_meanwhile, written_behind
from services.coordinator.operations.readiness import await_ready
from services.coordinator.operations.steps import StepFeed
from services.coordinator.operations.tables_match import check_indexes, check_tables
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.pipeline import Pipelines
from services.coordinator.tables import unpublished
from services.coordinator.tables.foreign_writes import check_foreign_writes
from services.coordinator.tables.unlogged import check_unlogged
from services.shared.model import (
    MESSAGE_PREFIX,
    ErrorKind,
    EventLevel,
    Lsn,
    PgmigError,
    PipelineState,
    SentinelApplied,
    SwitchoverResult,
    TableId,
    counted,
)
from services.shared.model.milestone import Milestone
from services.shared.model.view.certificate import CheckName
from services.shared.pg.bookkeeping.milestone import check_milestone
from services.shared.pg.bookkeeping.progress import applied_progress
from services.shared.pg.catalog.selected import choose
from services.shared.pg.catalog.sequences import SequenceSetter, read_sequences, verify_sequences
from services.shared.pg.catalog.server_now import constraints_not_valid, server_now
from services.shared.pg.catalog.tables import list_tables
from services.shared.pg.freeze.source import Freeze, emit_sentinel
from services.shared.pg.replication.stream_options import MESSAGES_SINCE
from services.shared.pg.replication.truncation import check_truncated
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import connection
from services.shared.pg.session.standbys import check_standbys
from services.shared.pg.unpublished.extension_tables import list_extension_tables

EXPLAIN_S = 0.3
"""The attempt to lock ends this long before the deadline, to have time to find who blocks the locks."""

COPIES_LOOK_S = 0.5


@dataclass(slots=True)
class Run:
    """One attempt. deadline: time.monotonic(). pipelines: of the migration. chosen: the objects that are
    migrated, as last read. sentinel, token: of the last one that was written. applied: the applier's report
    of it, if the source sends messages. rows: number of rows applied until then. evidence: what was
    checked. milestone: of the side that is left, if there is a way back."""

    context: Context
    schema: Schema
    workers: Workers
    feed: StepFeed
    deadline: float
    uris: Credentials
    pipelines: Pipelines | None = None
    sentinel: Lsn = Lsn(0)
    applied: SentinelApplied | None = None
    rows: int = 0
    token: str = ""
    sequences: int = 0
    chosen: Chosen = EVERYTHING
    unpublished: bool = False
    evidence: Evidence = field(default_factory=Evidence)
    milestone: Milestone | None = None

    def __post_init__(self) -> None:
        self.evidence.copied = not self.context.pipeline.without_copy

    @property
    def turns(self) -> Pipelines | None:
        """The pipelines of the migration, if the direction changes when it is decided."""
        return self.pipelines if turning.turns(self.context.migration.operations.current) else None


async def await_copies(run: Run) -> None:
    """Run `check_tables`, and wait until new partitions are copied. Then check the destination's indexes,
    and that nobody else has written there.
    Writes are not blocked yet."""
    pipeline = run.context.pipeline

    def settled() -> bool:
        return pipeline.state in {PipelineState.STREAMING, PipelineState.FAILED, PipelineState.PAUSED}

    while True:
        try:
            await _check_tables(run)
        except PgmigError as exc:
            left = run.deadline - time.monotonic() - COPIES_LOOK_S
            if exc.kind is not ErrorKind.TRANSIENT or left <= 0:
                raise
        else:
            await check_indexes(run.uris)
            await _check_standby(run)
            run.evidence.passed(CheckName.INDEXES_VALID, "before writes were blocked")
            await check_foreign_writes(run.context)
            return
        await asyncio.sleep(COPIES_LOOK_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(left):
                await run.workers.reports.until(settled)
        await await_ready(pipeline, run.deadline)


async def _check_standby(run: Run) -> None:
    """With --confirm-after-standby a sentinel would not arrive without one."""
    if not run.context.migration.record.options.confirm_after_standby:
        return
    async with connection(run.uris.destination_uri, "destination") as conn:
        await check_standbys(conn, run.context.pipeline.id.subscriber, "switch over when it is back")


async def _check_tables(run: Run, freeze: Freeze | None = None) -> None:
    match = await check_tables(run.context, run.schema, run.uris, freeze)
    run.chosen, run.evidence.unlogged = match.chosen, match.unlogged
    if freeze is not None:
        run.evidence.passed(CheckName.TABLES_EQUAL, counted(match.tables, "table"))


async def synchronize_ahead(run: Run) -> None:
    """Run this before writes are blocked, so that little remains to be done during the freeze."""
    began = time.monotonic()
    run.unpublished = await unpublished.any_to_compare(run.context)
    if run.unpublished:
        await unpublished.synchronize(run.context)
        run.deadline += time.monotonic() - began


async def freeze_source(run: Run, freeze: Freeze) -> None:
    async def tables() -> list[TableId]:
        run.chosen = await choose(freeze.session, run.context.migration.record.options)
        found = [table.table for table in await list_tables(freeze.session, run.chosen)]
        return found + [t.table for t in await list_extension_tables(freeze.session) if t.lockable]

    await freeze.stop_subscriptions()
    if freeze.before.subscriptions:
        named = ", ".join(freeze.before.subscriptions)
        where = freeze.before.side
        run.context.migration.event(EventLevel.WARNING, f"subscriptions of the {where} are disabled: {named}")
    locked_at = await freeze.lock(tables, run.deadline - EXPLAIN_S)
    run.feed.blocked_at = run.feed.blocked_at or locked_at  # clients of paused poolers wait longer
    run.evidence.blocks = freeze.blocks
    run.evidence.blocked_at = time.time() - run.feed.elapsed_ms() / 1000 if freeze.blocks else 0.0
    await at_point(run.context.migration.operations.kind, Point.LOCKED)
    since = await freeze.forbid_writes()
    await at_point(run.context.migration.operations.kind, Point.READ_ONLY)
    ended = await freeze.end_writers(since)
    done = f"{freeze.before.side} frozen; sessions that were ended: {ended}"
    if not freeze.blocks:
        done = "the source is not frozen, as requested; no transaction that writes is open"
    run.context.migration.event(EventLevel.INFO, done)


async def emit(run: Run, freeze: Freeze) -> None:
    run.token = secrets.token_hex(8)
    run.sentinel = await emit_sentinel(
        freeze.session, MESSAGE_PREFIX, f"{run.context.pipeline.id}:{run.token}"
    )


async def drain(run: Run, freeze: Freeze) -> None:
    """Wait until the sentinel, and so all before it, is on the destination's disk.

    If pgoutput sends no messages, the sentinel's position is used: the end of a record that was
    written after the last writer's commit. Progress at or past it means that all before it was
    decoded, in order, and is on disk. The commit that follows the record is an empty transaction,
    which these versions send, so no keepalive has to be waited for; and unlike the end of the
    WAL, which may be inside an incomplete record or after a page header, decoding
    reaches the end of a record.
    """
    versions = run.context.pipeline.source.server_version_num
    following = run.context.pipeline.following

    def drained() -> bool:
        if versions < MESSAGES_SINCE:
            return following.flushed >= run.sentinel
        return run.token in run.workers.reports.sentinels

    await run.workers.reports.until(lambda: drained() or run.workers.reports.fatal is not None)
    if not drained():
        assert run.workers.reports.fatal is not None
        raise run.workers.reports.fatal
    run.applied = run.workers.reports.sentinels.pop(run.token, None)
    run.sentinel = run.applied.lsn if run.applied else run.sentinel
    run.rows = following.totals().rows
    await freeze.holds()


async def close_source(run: Run, freeze: Freeze) -> None:
    ended = await freeze.shut(run.deadline - EXPLAIN_S)
    await freeze.check_prepared()
    await freeze.holds()
    if freeze.blocks:
        run.evidence.closed_at = time.time()
        run.context.migration.event(
            EventLevel.INFO,
            f"the {freeze.before.side} accepts no connections; sessions that were ended: {ended}",
        )


async def set_sequences(run: Run, freeze: Freeze) -> None:
    """The claim comes before the values are read, by a session that ends when another coordinator undoes the
    freeze: values that were read before another coordinator's are never set after them."""
    async with connection(run.uris.destination_uri, "destination") as conn:
        setter = await SequenceSetter.claim(conn, run.context.pipeline.id)
    values = await read_sequences(freeze.session, "source", run.chosen)
    async with connection(run.uris.destination_uri, "destination") as conn:
        await setter.set(conn, values)
    run.sequences = len(values)


async def verify(run: Run, freeze: Freeze) -> None:
    """Check that nothing passed the freeze: the locks are still held, the database is still closed, the
    tables are those that were copied, no sequence has moved, and no TRUNCATE was missed."""
    pipeline = run.context.pipeline
    await _check_tables(run, freeze)
    await check_unlogged(run.context, frozen=True)
    if not pipeline.without_copy:
        run.evidence.passed(CheckName.UNLOGGED_TABLES)
    values = await read_sequences(freeze.session, "source", run.chosen)
    async with connection(run.uris.destination_uri, "destination") as conn:
        run.evidence.sequences_equal(values, await verify_sequences(conn, values))
        run.evidence.not_valid = await constraints_not_valid(conn)
        migration = run.context.migration
        files, routes = pipeline.record.files, run.schema.routing.routes
        await check_truncated(freeze.session, conn, files, routes, migration.id)
        if files:
            run.evidence.passed(CheckName.TRUNCATE, counted(len(files), "table"))
    run.evidence.destination_written(await check_foreign_writes(run.context, open_ones=True))
    await _check_still_closed(run, freeze)
    await freeze.shut(run.deadline - EXPLAIN_S)
    run.evidence.passed(CheckName.NO_SESSION_LEFT)
    run.evidence.passed(CheckName.NO_OPEN_TRANSACTION)
    await freeze.check_prepared()
    run.evidence.passed(CheckName.NO_PREPARED_TRANSACTION)
    await freeze.holds()


async def check_fence(run: Run, freeze: Freeze) -> None:
    """Write a second sentinel. Nothing may have been committed between the two. This check reads the WAL, so
    it does not depend on the locks and settings of the freeze. The applier's word is not enough: the
    destination's own progress must have reached the second sentinel."""
    first, rows, run.evidence.sentinel = run.token, run.rows, run.sentinel
    pipeline = run.context.pipeline
    async with connection(run.uris.destination_uri, "destination") as conn:
        await emit(run, freeze)
        await drain(run, freeze)
        if run.applied is not None:
            check_nothing_behind(run.applied, first)
        elif run.rows != rows:  # no messages are sent (see drain), so totals are compared
            raise written_behind(f"{run.rows - rows} rows")
        how = "as the WAL shows" if run.applied is not None else "by the number of applied rows"
        run.evidence.passed(CheckName.NOTHING_BEHIND_SENTINEL, how)
        await check_milestone(conn, pipeline.id, pipeline.record.milestone)
        run.evidence.progressed(await applied_progress(conn, pipeline.id), run.sentinel)
        run.evidence.destination = await server_now(conn, "destination")
    run.evidence.source = await server_now(freeze.session, "source")
    await _check_still_closed(run, freeze)
    await freeze.holds()
    run.evidence.passed(CheckName.LOCKS_HELD)


async def _check_still_closed(run: Run, freeze: Freeze) -> None:
    if await freeze.opened():
        raise opened_meanwhile(freeze.before.database)
    run.evidence.passed(CheckName.DATABASE_CLOSED)


async def commit(run: Run) -> None:
    """Store the record in its new phase. After that the decision is final. It cannot be cancelled while it is
    being stored: the store may have it although the answer is lost."""
    operation = run.context.migration.operations.current
    if operation is not None and operation.cancel_requested:
        raise PgmigError(ErrorKind.SWITCHOVER_FAILED, "an operator cancelled the switchover")
    result = SwitchoverResult(run.sentinel, run.feed.elapsed_ms(), run.sequences, time.time())
    certificate = draft(run.context.pipeline, run.evidence, result)
    turns = run.turns
    turn = await turning.start_of(run.context, turns, run.uris, run.milestone) if turns else None
    run.feed.deciding = True
    await run.context.journal.decide(result, certificate, turn)
