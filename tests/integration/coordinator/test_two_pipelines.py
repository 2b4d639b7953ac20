"""One decoder, one copier and one applier serve the forward and the reverse pipeline of one migration, on one
PostgreSQL server and one NATS account, where equal names would collide."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from services.coordinator.api import WorkersApiHandler
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.bus.connection import Client, bus
from services.shared.bus.queue import ensure_queue, publish_parts
from services.shared.bus.store import delete_stream
from services.shared.model import (
    ApplierProgress,
    ApplierWork,
    AssignmentRef,
    CopierWork,
    DecoderWork,
    MigrationId,
    PartDone,
    PgmigError,
    PipelineId,
    Role,
    SlotReady,
    TableId,
    WorkerReport,
)
from services.shared.pg.bookkeeping.copy_ledger import read_ledger
from services.shared.pg.bookkeeping.schema import drop_bookkeeping
from services.shared.pg.session.connection import connection
from services.shared.pg.teardown import remove_from_source, remove_origin
from services.shared.rpc.server import ControlServer
from services.shared.runtime.changes import Changes
from tests.fakes.control import StandInControl
from tests.support.copying.databases import execute, exported_snapshot, keep_books, part, scalar
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.process import spawn
from tests.support.services.services import WORKERS

TIMEOUT_S = 60.0
MIGRATION = MigrationId("both")
ROWS = 20
Report = TypeVar("Report", SlotReady, PartDone, ApplierProgress)


@dataclass
class Listening:
    """What one pipeline hears of its workers."""

    changes: Changes = field(default_factory=Changes)
    reports: list[WorkerReport] = field(default_factory=list)
    errors: list[PgmigError] = field(default_factory=list)

    def accepts(self, assignment: AssignmentRef) -> bool:
        return True

    def given(self, assignment: AssignmentRef) -> None: ...

    def gone(self, role: Role) -> None: ...

    def unstaffed(self, role: Role) -> None: ...

    def reported(self, role: Role, report: WorkerReport) -> None:
        self.reports.append(report)
        self.changes.announce()

    def failed(self, role: Role, error: PgmigError) -> None:
        self.errors.append(error)
        self.changes.announce()

    async def first(self, kind: type[Report], condition: Callable[[Report], bool] = lambda _: True) -> Report:
        def found() -> list[Report]:
            return [one for one in self.reports if isinstance(one, kind) and condition(one)]

        async with asyncio.timeout(TIMEOUT_S):
            await self.changes.until(lambda: bool(self.errors or found()))
        assert not self.errors
        return found()[0]


@dataclass
class OneWay:
    """A pipeline between two databases. table: whose changes it replicates. copied: whose rows it copies."""

    id: PipelineId
    source: str
    destination: str
    listening: Listening = field(default_factory=Listening)

    @property
    def table(self) -> str:
        return f"changed_{self.id.direction}"

    @property
    def copied(self) -> str:
        return f"copied_{self.id.direction}"

    def make_tables(self) -> None:
        for uri in (self.source, self.destination):
            execute(
                uri, f"CREATE TABLE {self.table} (a int PRIMARY KEY)", f"CREATE TABLE {self.copied} (a int)"
            )
        execute(self.source, f"INSERT INTO {self.copied} SELECT generate_series(1, {ROWS})")

    async def begin(self, registry: WorkerRegistry) -> None:
        tables = (TableId("public", self.table),)
        registry.listen(self.id, self.listening)
        work = DecoderWork(self.source, follow=True, may_create=True, tables=tables)
        registry.want(self.id, Role.DECODER, lambda: work)
        slot = await self.listening.first(SlotReady)
        applier = ApplierWork(self.destination, slot.consistent_lsn, slot.timeline)
        registry.want(self.id, Role.APPLIER, lambda: applier)
        registry.want(self.id, Role.COPIER, lambda: CopierWork(self.source, self.destination))

    async def copy(self, client: Client) -> None:
        with exported_snapshot(self.source) as snapshot:
            await publish_parts(
                client, self.id, [replace(part(self.copied, "a", snapshot=snapshot), part_id="1")]
            )
            await self.listening.first(PartDone)
        assert scalar(self.destination, f"SELECT count(*) FROM {self.copied}") == ROWS
        async with connection(self.destination, "destination") as conn:
            assert set((await read_ledger(conn, self.id)).parts) == {"1"}

    async def replicate(self) -> None:
        execute(self.source, f"INSERT INTO {self.table} SELECT generate_series(1, {ROWS})")
        await self.listening.first(ApplierProgress, lambda report: report.rows_applied >= ROWS)
        assert scalar(self.destination, f"SELECT count(*) FROM {self.table}") == ROWS

    async def remove(self, client: Client) -> list[str]:
        removed = await remove_from_source(self.source, self.id)
        removed += await remove_origin(self.destination, self.id)
        async with connection(self.destination, "destination") as conn:
            await drop_bookkeeping(conn, self.id)
        streams = (self.id.change_stream, self.id.copy_stream)
        return removed + [name for name in streams if await delete_stream(client, name)]


@contextmanager
def worker_processes(address: str, nats: NatsServer, folder: Path) -> Iterator[None]:
    """One of each role."""
    env = {"PATH": os.environ["PATH"], "PGMIG_COORDINATOR": address, "PGMIG_NATS_URL": nats.url}
    with ExitStack() as stack:
        for role in WORKERS:
            log = stack.enter_context((folder / f"{role}.log").open("wb"))
            argv = [sys.executable, "-m", f"services.{role}"]
            process = spawn(argv, env={**env, "PGMIG_WORKER_ID": role}, log=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


@asynccontextmanager
async def worker_registry(nats: NatsServer, folder: Path) -> AsyncIterator[WorkerRegistry]:
    """Served to one worker of each role."""
    registry = WorkerRegistry()
    server = ControlServer("127.0.0.1:0", StandInControl(), WorkersApiHandler(registry))
    address = await server.start()
    try:
        with worker_processes(address, nats, folder):
            yield registry
    finally:
        await server.stop()


def names_on(server: PostgresServer) -> tuple[set[str], set[str]]:
    """Slots and origins of the server, whatever their database."""
    with server.connect() as conn:
        slots = conn.execute("SELECT slot_name FROM pg_replication_slots").fetchall()
        origins = conn.execute("SELECT roname FROM pg_replication_origin").fetchall()
    return {row[0] for row in slots}, {row[0] for row in origins}


async def test_one_set_of_workers_serves_both_pipelines_of_a_migration(
    source_server: PostgresServer, nats_server: NatsServer, tmp_path: Path
) -> None:
    with source_server.fresh_database("old") as old, source_server.fresh_database("new") as new:
        forward, reverse = OneWay(MIGRATION.forward, old, new), OneWay(MIGRATION.reverse, new, old)
        for way in (forward, reverse):
            way.make_tables()
            await keep_books(way.destination)
        async with bus(nats_server.url, "test") as client:
            async with worker_registry(nats_server, tmp_path) as registry:
                for way in (forward, reverse):
                    await ensure_queue(client, way.id)
                    await way.begin(registry)
                for way in (forward, reverse):
                    await way.copy(client)
                    await way.replicate()
                workers = [{view.worker_id for view in registry.view(way.id)} for way in (forward, reverse)]
                assert workers == [set(WORKERS), set(WORKERS)]
                assert names_on(source_server) == ({"pgmig_both", "pgmig__reverse_both"},) * 2
                for way in (forward, reverse):
                    assert await registry.release(way.id, list(Role))
            assert len(await forward.remove(client)) == 5  # slot, publication, origin and two streams
            assert names_on(source_server) == ({"pgmig__reverse_both"},) * 2
            assert len(await reverse.remove(client)) == 5
