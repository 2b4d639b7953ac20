"""Real copier processes, and a coordinator that the test controls."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from services.shared.bus.connection import Client, bus
from services.shared.bus.queue import ensure_queue
from services.shared.model import (
    Assign,
    Assignment,
    AssignmentFailed,
    CopierWork,
    MigrationId,
    PartDone,
    PipelineId,
    Register,
    WorkerReport,
)
from services.shared.rpc.server import ControlServer
from services.shared.rpc.workers_api import Send
from tests.fakes.control import StandInControl
from tests.support.copying.databases import execute
from tests.support.servers.nats import NatsServer

TIMEOUT_S = 60.0
GATE = 4711


@dataclass
class Coordinator:
    """Records workers and reports."""

    sends: dict[str, Send] = field(default_factory=dict)
    reports: list[tuple[str, WorkerReport]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def holds(self, worker_id: str) -> bool:
        return False

    def connected(self, register: Register, send: Send) -> None:
        self.sends[register.worker_id] = send
        self.changed.set()

    async def report(self, worker_id: str, report: WorkerReport) -> None:
        self.reports.append((worker_id, report))
        self.changed.set()

    def disconnected(self, worker_id: str) -> None:
        self.sends.pop(worker_id, None)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def done(self) -> list[PartDone]:
        return [report for _, report in self.reports if isinstance(report, PartDone)]

    def failures(self) -> list[AssignmentFailed]:
        return [report for _, report in self.reports if isinstance(report, AssignmentFailed)]


@dataclass
class Stand:
    source: str
    dest: str
    client: Client
    coordinator: Coordinator
    address: str
    nats_url: str
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def start(self, worker: str, *, lease_s: float = 30.0) -> None:
        """A copier process, attached and without work."""
        env = {
            "PATH": os.environ["PATH"],
            "PGMIG_COORDINATOR": self.address,
            "PGMIG_NATS_URL": self.nats_url,
            "PGMIG_WORKER_ID": worker,
            "PGMIG_LEASE_S": str(lease_s),
        }
        self.processes[worker] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.copier", env=env, stdin=asyncio.subprocess.DEVNULL
        )
        await self.coordinator.until(lambda: worker in self.coordinator.sends)

    def assign(self, worker: str, pipeline: PipelineId, *, workers: int = 1) -> str:
        """Returns the assignment's id."""
        key = f"{worker}-{pipeline}"
        work = CopierWork(self.source, self.dest, workers)
        self.coordinator.sends[worker](Assign(Assignment(key, pipeline, work)))
        return key

    async def ended(self, worker: str) -> int:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.processes.pop(worker).wait()

    async def kill9(self, worker: str) -> None:
        self.processes[worker].kill()
        await self.ended(worker)

    def peak_memory(self, worker: str) -> int:
        """The largest resident memory of the process so far, in bytes."""
        status = Path(f"/proc/{self.processes[worker].pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024


@asynccontextmanager
async def copier_stand(source: str, dest: str, nats: NatsServer, *migrations: str) -> AsyncIterator[Stand]:
    coordinator = Coordinator()
    server = ControlServer("127.0.0.1:0", StandInControl(), coordinator)
    address = await server.start()
    async with bus(nats.url, "test") as client:
        for migration in migrations:
            await ensure_queue(client, MigrationId(migration).forward)
        stand = Stand(source, dest, client, coordinator, address, nats.url)
        try:
            yield stand
        finally:
            for worker in list(stand.processes):
                await stand.kill9(worker)
            await server.stop(0)


def make_gate(uri: str) -> None:
    """The function of gated tables: a row passes it while nobody holds the gate's lock."""
    execute(
        uri,
        f"""CREATE FUNCTION gate() RETURNS bool LANGUAGE plpgsql AS $$BEGIN
            PERFORM pg_catalog.pg_advisory_lock_shared({GATE});
            RETURN pg_catalog.pg_advisory_unlock_shared({GATE}); END$$""",
    )


class Gate:
    """Hold the gate: COPY into a gated table waits in the middle of its rows."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn

    async def waiting(self, sessions: int = 1) -> None:
        """Wait until so many sessions wait at the gate. A lock has no event to wait for, so this polls."""
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
        async with asyncio.timeout(TIMEOUT_S):
            while self._conn.execute(query, [GATE]).fetchone() != (sessions,):
                await asyncio.sleep(0.02)

    def open(self) -> None:
        self._conn.execute("SELECT pg_advisory_unlock_all()")


@contextmanager
def closed_gate(uri: str) -> Iterator[Gate]:
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s)", [GATE])
        yield Gate(conn)
