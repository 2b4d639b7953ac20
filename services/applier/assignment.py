"""One assignment of the applier: sessions on the destination, across all curable failures.

A session reads progress from the destination, reads the stream from its first retained message, and
continues after what progress covers. Any failure ends the session. The next one starts the same
way, so there is one path for start, restart, retry and crash.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from services.applier.assembler import Assembler
from services.applier.chunks import ChunkQueue
from services.applier.conflicts.guard import Conflicts, Settings, check_policy
from services.applier.conflicts.resolving import ConflictError
from services.applier.planner import Planner, Sentinel
from services.applier.writer import GroupFailedError, Totals, Writer
from services.shared.bus.change_reader import ChangeReader
from services.shared.bus.connection import Client
from services.shared.bus.flush import FlushChannel
from services.shared.model import (
    ApplierProgress,
    ApplierWork,
    Assignment,
    ErrorKind,
    Lsn,
    PgmigError,
    SentinelApplied,
    WorkerReport,
)
from services.shared.model.conflicts.policy import OnConflict
from services.shared.pg.apply.key_states import KeyStates, receiving_facts
from services.shared.pg.apply.known_relation import check_known
from services.shared.pg.apply.relation_match import describe_target
from services.shared.pg.apply.relation_names import RelationNames
from services.shared.pg.apply.session import ApplySession
from services.shared.pg.apply.target_table import TargetTable
from services.shared.pg.bidirectional.deletions import check_recorded
from services.shared.pg.bookkeeping.conflicts import forget_deletions, read_seen, record_stopped
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.freeze.closed_database import writable_connection
from services.shared.pg.session.connection import Connection, connection
from services.shared.pg.session.encoding import stored_encoding
from services.shared.pg.session.standbys import safe_position
from services.shared.pgoutput import Relation
from services.shared.runtime.assignments import cause, retried
from services.shared.runtime.retry import retrying
from services.shared.runtime.telemetry import extract
from services.shared.wire.changes import decode_batch, encode_flush_report

log = logging.getLogger(__name__)

FLUSH_REPORT_S = 0.1
REPEAT_EVERY = 10
"""An unchanged flush report is sent once in this many intervals."""
TRIM_S = 1.0
STANDBYS_LOOK_S = 0.05
FORGET_S = 60.0
"""Between removals of records of deletions that are not needed any more."""


class Applying:
    """The state of one applier assignment. It outlives a session."""

    def __init__(
        self, assignment: Assignment, client: Client, report: Callable[[WorkerReport], None]
    ) -> None:
        assert isinstance(assignment.work, ApplierWork)
        self._id = assignment.assignment_id
        self._work = assignment.work
        self._pipeline = assignment.pipeline
        self._client = client
        self._report = report
        self._totals = Totals()
        self._strict_until = 0
        self._covered = 0
        self._writer: Writer | None = None
        self._channel = FlushChannel(client, self._pipeline)

    async def run(self) -> None:
        """Apply until cancelled. Raises errors that no retry cures; no later transaction was applied."""
        while True:
            try:
                await retrying(
                    f"applying migration {self._pipeline.migration}",
                    self._session,
                    on_failure=self._report_retry,
                )
            except GroupFailedError as exc:
                log.warning("a group of transactions failed (%s): applying them one by one", exc)
                self._strict_until = exc.until
            except ConflictError as exc:
                async with connection(self._work.destination_uri, self._pipeline.subscriber) as conn:
                    await record_stopped(conn, self._pipeline, exc.conflict)
                raise

    def _report_retry(self, error: PgmigError) -> None:
        """After a deadlock, the current transactions are applied one at a time. This needs fewer locks at
        once, and transactions that were applied before the next deadlock are kept."""
        if error.kind is ErrorKind.DEADLOCK and self._writer is not None:
            self._strict_until = max(self._strict_until, self._writer.latest)
        self._report(retried(self._id, error))

    async def _session(self) -> None:
        work = self._work
        session = await ApplySession.open(
            work.destination_uri, self._pipeline, work.start_lsn, work.epoch, work.milestone
        )
        reader = ChangeReader(self._client, self._pipeline, work.timeline)
        try:
            log.info("applying from %s", session.progress)
            if work.after_standby:
                await session.await_standbys(work.start_lsn)
            await _explained(self._work_session(session, reader))
        finally:
            await reader.close()
            await session.close()

    async def _work_session(self, session: ApplySession, reader: ChangeReader) -> None:
        queue = ChunkQueue()
        self._covered = 0
        async with (
            connection(self._work.destination_uri, "destination") as catalog,
            asyncio.TaskGroup() as group,
        ):
            settings = await self._conflict_settings(catalog)
            conflicts = await self._conflicts(catalog, session, settings) if settings is not None else None
            self._writer = writer = Writer(
                session,
                self._totals,
                self._sentinel,
                self._strict_until,
                boundaries=self._work.strict,
                conflicts=conflicts,
            )
            names = RelationNames(catalog)
            planner = Planner(
                self._pipeline,
                partial(self._describe, catalog),
                dict(self._work.floors),
                frozenset(lsn.value for lsn in self._work.skip),
                self._work.routes,
                check=partial(check_known, catalog, self._pipeline),
                named=names.converted,
                seen=settings.seen_us if settings is not None else 0,
            )
            group.create_task(
                self._read(reader, Assembler(session.progress, names.codec), session, planner, queue),
                name="read",
            )
            group.create_task(writer.run(queue), name="write")
            group.create_task(self._report_flush(session), name="report")
            group.create_task(self._trim(writer, reader), name="trim")
            if self._work.after_standby:
                group.create_task(self._watch_standbys(session), name="standbys")
            if settings is not None:
                group.create_task(self._forget_deletions(), name="forget-deletions")

    async def _describe(self, catalog: Connection, relation: Relation, lsn: Lsn) -> TargetTable:
        target = await describe_target(catalog, relation, lsn, generated=self._work.sends_generated)
        if self._work.on_conflict is OnConflict.LAST_UPDATE_WINS and target.keyed:
            key = [target.columns[i].name for i in target.where]
            await check_recorded(catalog, self._pipeline, target.table, key)
        return target

    async def _conflict_settings(self, catalog: Connection) -> Settings | None:
        policy = self._work.on_conflict
        if policy is None:
            return None
        await ensure_bookkeeping(catalog)
        seen = max(self._work.seen_us, await read_seen(catalog, self._pipeline))
        return Settings(self._pipeline, policy, seen, stored_encoding(catalog))

    async def _conflicts(self, catalog: Connection, session: ApplySession, settings: Settings) -> Conflicts:
        facts = await receiving_facts(catalog, self._pipeline)
        check_policy(settings.policy, self._pipeline, tells_times=facts.tells_times)
        return Conflicts(settings, KeyStates(session, self._pipeline, facts))

    async def _watch_standbys(self, session: ApplySession) -> None:
        conn = await writable_connection(self._work.destination_uri, side=self._pipeline.subscriber)
        try:
            while True:
                if not session.all_flushed:
                    session.standbys_have(await safe_position(conn))
                await asyncio.sleep(STANDBYS_LOOK_S)
        finally:
            await conn.close()

    async def _forget_deletions(self) -> None:
        while True:
            await asyncio.sleep(FORGET_S)
            try:
                async with connection(self._work.destination_uri, self._pipeline.subscriber) as conn:
                    await forget_deletions(conn, self._pipeline)
            except PgmigError as exc:
                log.warning("%s; trying again later", exc)

    async def _read(
        self,
        reader: ChangeReader,
        assembler: Assembler,
        session: ApplySession,
        planner: Planner,
        queue: ChunkQueue,
    ) -> None:
        while True:
            stored = await retrying("reading the change stream", reader.next, longest_wait_s=2.0)
            if stored is None:
                log.warning("the change stream was created again: reading it from its beginning")
                await queue.put_all(await planner.plan(assembler.restart()))
                continue
            trace = extract(stored.headers) if "traceparent" in stored.headers else None
            batch = decode_batch(stored.data)
            await queue.put_all(
                await planner.plan(
                    assembler.feed(batch), size=len(batch.payload), sequence=stored.sequence, trace=trace
                )
            )
            # If nothing ended in this batch, a transaction continues whose beginning must be kept.
            if batch.previous_lsn < batch.end_lsn <= session.flushed:
                self._covered = stored.sequence

    def _sentinel(self, sentinel: Sentinel, end: Lsn) -> None:
        log.info("sentinel applied and flushed at %s", end)
        self._report(SentinelApplied(self._id, sentinel.token, end, sentinel.since, sentinel.changes))

    async def _report_flush(self, session: ApplySession) -> None:
        """Report to decoder and coordinator what the destination has flushed."""
        last, repeats = Lsn(0), 0
        while True:
            repeats += 1
            if session.flushed != last or repeats >= REPEAT_EVERY:
                await retrying(
                    "reporting the flush position",
                    partial(self._channel.send, encode_flush_report(session.flushed)),
                )
                self._report(
                    ApplierProgress(
                        self._id,
                        session.applied,
                        session.flushed,
                        self._totals.last_commit_at,
                        self._totals.rows,
                        self._totals.transactions,
                        self._totals.bytes,
                        self._totals.conflicts,
                    )
                )
                last, repeats = session.flushed, 0
            await asyncio.sleep(FLUSH_REPORT_S)

    async def _trim(self, writer: Writer, reader: ChangeReader) -> None:
        while True:
            await asyncio.sleep(TRIM_S)
            # Includes what an earlier session applied; otherwise a full stream would remain full.
            sequence = max(writer.trimmable, self._covered)
            if sequence:
                try:
                    await reader.trim(sequence)
                except PgmigError as exc:
                    log.warning("%s; trying again later", exc)


async def _explained(work: Awaitable[None]) -> None:
    """Await a session. Replace its task group's error by the one that explains it."""
    try:
        await work
    except BaseExceptionGroup as group:
        failed = group.subgroup(GroupFailedError)
        if failed is not None:
            raise _leaf(failed) from group
        error = cause(group)
        if error is None:
            raise
        raise error from group


def _leaf(group: BaseExceptionGroup[GroupFailedError]) -> GroupFailedError:
    first = group.exceptions[0]
    return first if isinstance(first, GroupFailedError) else _leaf(first)
