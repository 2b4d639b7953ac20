"""Checks on both servers every few seconds what would prevent or delay a switchover.

It does so while the migration replicates changes, and at once when a client asks. It takes little of the
servers' time: a question that took long is repeated less often, and a server that does not answer is asked
at growing intervals. During a switchover it asks nothing and has no sessions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from services.coordinator.migration.pace import pause
from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.readiness import Sight
from services.coordinator.pipeline.ends import PipelineEnds
from services.shared.model import ErrorKind, EventLevel, PgmigError, PipelineState, TableId, back_off_s
from services.shared.pg.catalog.partitions import existing_tables
from services.shared.pg.guard.foreign_writes import read_foreign_writes
from services.shared.pg.guard.read_only import not_guarded, other_guards
from services.shared.pg.readiness.destination import invalid_indexes_of, read_writers, valid_among
from services.shared.pg.readiness.source import Slow, read_slow, read_source
from services.shared.pg.readiness.watched_server import WatchedServer
from services.shared.pg.session.connection import Connection
from services.shared.pg.session.standbys import read_standbys

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
LONGEST_PAUSE_S = 60.0
SLOW_EVERY_S = 60.0
"""Between two reads of what costs more: the selection, and all sequences."""
_TICK_S = 1.0
_REPLICATING = frozenset({PipelineState.CATCHUP, PipelineState.STREAMING})


class ReadinessWatch:
    def __init__(self, pipeline: PipelineStatus, credentials: PipelineEnds) -> None:
        self._pipeline = pipeline
        self._credentials = credentials
        self._source, self._destination = WatchedServer("source"), WatchedServer("destination")
        self._asking = asyncio.Lock()
        self._slow, self._slow_at = Slow(), 0.0
        self._failures = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        next_at = 0.0
        try:
            while True:
                if not self._wanted():
                    next_at = 0.0
                    await self._close()
                elif time.monotonic() >= next_at:
                    next_at = await self._timed_look()
                await asyncio.sleep(_TICK_S)
        finally:
            await self._close()

    async def _timed_look(self) -> float:
        began = time.monotonic()
        await self.look()
        ended = time.monotonic()
        if self._failures:
            return ended + back_off_s(LOOK_EVERY_S, LONGEST_PAUSE_S, self._failures - 1)
        return ended + min(LONGEST_PAUSE_S, pause(LOOK_EVERY_S, ended - began))

    def _wanted(self) -> bool:
        pipeline, migration = self._pipeline, self._pipeline.migration
        replicating = pipeline.state in _REPLICATING and not migration.in_switchover
        return migration.record.options.follow and replicating and not migration.removed

    async def look(self) -> None:
        """Ask both servers now. If a server does not answer, its error is recorded."""
        async with self._asking:
            known = self._credentials.known
            if not self._wanted() or not known.complete:
                return
            servers, found = self._pipeline.servers, list[TableId]()

            async def destination(conn: Connection) -> None:
                found[:] = await self._look_at_destination(conn)

            async def source(conn: Connection) -> None:
                await self._look_at_source(conn)
                servers.invalid = await valid_among(conn, found)

            answers = [
                await _ask(self._destination, known.destination_uri, servers.destination_sight, destination),
                await _ask(self._source, known.source_uri, servers.source_sight, source),
            ]
            self._failures = 0 if all(answers) else self._failures + 1
            self._pipeline.migration.touch()

    async def _look_at_destination(self, conn: Connection) -> tuple[TableId, ...]:
        """Returns the names of invalid indexes."""
        servers = self._pipeline.servers
        tables = {record.table for record in self._pipeline.copying.records()}
        now = time.time()
        servers.missing = tuple(sorted(tables - await existing_tables(conn, tables)))
        servers.written = await read_foreign_writes(conn, self._pipeline.id, tables, now)
        servers.guarding = await other_guards(conn, self._pipeline.id)
        servers.unguarded = await self._not_guarded(conn)
        await self._look_for_standbys(conn)
        servers.saw_writers(await read_writers(conn, tables, now), now)
        return await invalid_indexes_of(conn)

    async def _look_for_standbys(self, conn: Connection) -> None:
        servers, migration = self._pipeline.servers, self._pipeline.migration
        if not migration.record.options.confirm_after_standby:
            return
        found, side = await read_standbys(conn), self._pipeline.id.subscriber
        if bool(found.names) == servers.no_standby:
            servers.no_standby = not found.names
            if servers.no_standby:
                migration.event(
                    EventLevel.WARNING,
                    f"the {side} has no standby any more that counts: changes are applied there, but "
                    "confirmed only when a standby has them",
                )
            else:
                migration.event(
                    EventLevel.INFO, f"standbys of the {side} confirm changes again: {found.named}"
                )

    async def _not_guarded(self, conn: Connection) -> str:
        """Why others may be able to write to the destination, for messages."""
        guard = self._pipeline.record.guard
        if guard is not None:
            return await not_guarded(conn, guard)
        wanted = not self._pipeline.migration.record.options.no_guard_destination
        return "it is not read-only by default" if wanted else ""

    async def _look_at_source(self, conn: Connection) -> None:
        now = time.monotonic()
        if not self._slow_at or now - self._slow_at >= SLOW_EVERY_S:
            self._slow_at = now
            try:
                self._slow = await read_slow(conn, self._pipeline.migration.record.options)
            except PgmigError as exc:
                if exc.kind is not ErrorKind.TRANSIENT:  # else a lock prevented it: keep the previous result
                    raise
                log.info("the sequences of the source cannot be read just now: %s", exc)
        slot = self._pipeline.id.slot
        position, facts = await read_source(conn, slot, self._slow)
        self._pipeline.servers.source = facts
        self._pipeline.following.source_at(time.monotonic(), position)

    async def _close(self) -> None:
        async with self._asking:
            await self._source.close()
            await self._destination.close()


async def _ask(
    server: WatchedServer, uri: str, sight: Sight, questions: Callable[[Connection], Awaitable[None]]
) -> bool:
    """Whether it answered. The session may have ended since the last query, so another one is opened once."""
    reused = server.opened
    try:
        await questions(await server.session(uri))
    except PgmigError as exc:
        await server.close()
        if reused:
            return await _ask(server, uri, sight, questions)
        sight.error = exc.message
        return False
    sight.answered(time.monotonic())
    return True
