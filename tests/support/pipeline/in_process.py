"""Decoder and applier in this process, without a coordinator: the pipeline from WAL to rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import AsyncConnection

from services.applier.assignment import Applying
from services.decoder.assignment import Decoding
from services.shared.bus.connection import Client, bus
from services.shared.model import (
    ApplierWork,
    Assignment,
    DecoderWork,
    Lsn,
    MigrationId,
    PgmigError,
    PipelineId,
    Route,
    SentinelApplied,
    SlotReady,
    TableId,
    WorkerReport,
)
from services.shared.model.conflicts.policy import OnConflict
from tests.support.servers.door import session
from tests.support.servers.nats import NatsServer

PIPELINE = MigrationId("pipe").forward
TIMEOUT_S = 60
DDL = "CREATE TABLE t (id int PRIMARY KEY, v text, big text)"


@dataclass
class Pipeline:
    """A decoder and an applier in this process, each a task that can be stopped and started."""

    source: str
    destination: str
    client: Client
    tables: tuple[TableId, ...]
    reports: list[WorkerReport] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    slot: SlotReady | None = None
    routes: tuple[Route, ...] = ()
    max_stream_bytes: int = 1 << 30
    id: PipelineId = PIPELINE
    local_only: bool = False
    sends_generated: bool = False
    epoch: str = ""
    on_conflict: OnConflict | None = None
    seen_us: int = 0

    def _report(self, report: WorkerReport) -> None:
        self.reports.append(report)
        if isinstance(report, SlotReady):
            self.slot = report
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for reports until `condition` holds. Raises the error of a failed task of the pipeline."""
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                self.changed.clear()
                waiter = asyncio.create_task(self.changed.wait())
                await asyncio.wait({waiter, *self.tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
                waiter.cancel()
                for task in self.tasks.values():
                    if task.done():
                        task.result()

    async def until_reported(self) -> None:
        """Wait for the next report."""
        seen = len(self.reports)
        await self.until(lambda: len(self.reports) > seen)

    async def start_decoder(self) -> None:
        ready = self.slot
        work = DecoderWork(
            self.source,
            follow=True,
            may_create=ready is None,
            tables=self.tables,
            system_identifier=ready.system_identifier if ready else "",
            timeline=ready.timeline if ready else 0,
            start_lsn=ready.consistent_lsn if ready else Lsn(0),
            sends_generated=self.sends_generated,
            local_only=self.local_only,
            sends_seen=self.on_conflict is not None,
        )
        decoding = Decoding(Assignment("d", self.id, work), self.client, self._report, self.max_stream_bytes)
        self.tasks["decoder"] = asyncio.create_task(decoding.run())
        await self.until(lambda: self.slot is not None)

    def start_applier(
        self,
        floors: tuple[tuple[TableId, Lsn], ...] = (),
        skip: tuple[Lsn, ...] = (),
        *,
        strict: bool = False,
    ) -> None:
        assert self.slot is not None
        work = ApplierWork(
            self.destination,
            self.slot.consistent_lsn,
            self.slot.timeline,
            floors,
            skip,
            strict,
            self.routes,
            sends_generated=self.sends_generated,
            epoch=self.epoch,
            on_conflict=self.on_conflict,
            seen_us=self.seen_us,
        )
        applying = Applying(Assignment("a", self.id, work), self.client, self._report)
        self.tasks["applier"] = asyncio.create_task(applying.run())

    async def stop(self, name: str) -> None:
        task = self.tasks.pop(name)
        task.cancel()
        await asyncio.wait({task})

    async def failure(self, name: str) -> PgmigError:
        """The error with which `name` fails."""
        task = self.tasks.pop(name)
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.wait({task})
        error = task.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert isinstance(error, PgmigError)
        return error

    async def drain(self, token: str) -> None:
        """Wait until everything committed so far is on the destination's disk."""
        async with await AsyncConnection.connect(self.source, autocommit=True) as conn:
            await conn.execute("SELECT pg_logical_emit_message(true, 'pgmig', %s)", [f"{self.id}:{token}"])
        await self.until(
            lambda: any(isinstance(r, SentinelApplied) and r.token == token for r in self.reports)
        )


@asynccontextmanager
async def pipeline(
    source: str, destination: str, nats: NatsServer, ddl: str, *tables: str
) -> AsyncIterator[Pipeline]:
    for uri in (source, destination):
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute(ddl)
    async with bus(nats.url, "test") as client:
        found = Pipeline(source, destination, client, tuple(TableId("public", name) for name in tables))
        try:
            yield found
        finally:
            for name in list(found.tasks):
                await found.stop(name)


def run(uri: str, *statements: str) -> None:
    """Each statement is a transaction of its own, which writes even if the database is read-only by
    default."""
    with psycopg.connect(uri, autocommit=True, options="-c default_transaction_read_only=off") as conn:
        for statement in statements:
            conn.execute(statement)


def rows(uri: str, query: str) -> list[tuple[object, ...]]:
    """This works also for a source that a switchover has closed: it is opened again."""
    with session(uri) as conn:
        return conn.execute(query).fetchall()


def equal(p: Pipeline, table: str = "t") -> None:
    """Both sides have the same rows of the table, and at least one."""
    query = f'SELECT x::text FROM "{table}" x ORDER BY 1'
    assert rows(p.destination, query) == rows(p.source, query)
    assert rows(p.source, f'SELECT count(*) FROM "{table}"') != [(0,)]
