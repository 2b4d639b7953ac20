"""A migration of a database to which an application writes throughout, and its successful end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from clients.session import Session
from services.shared.model import (
    MESSAGE_PREFIX,
    Lsn,
    MigrationOptions,
    MigrationView,
    Phase,
    SwitchoverStep,
    TableState,
)
from tests.support.data.compare import compare_databases
from tests.support.data.workload import Writer, WriterReport, check_conserved_sum, check_markers
from tests.support.migrations.verdict import checks, problems
from tests.support.switchover.guarded import ASKS_TO_WRITE

FOLLOW = MigrationOptions(follow=True)
WAIT_S = 90.0
SWITCHOVER_S = 30.0
HELD = "orders"
"""A table of schema shop."""


@dataclass(slots=True)
class Live:
    """One migration under a coordinator. source, dest: URIs."""

    session: Session
    migration_id: str
    source: str = field(repr=False)
    dest: str = field(repr=False)

    async def start(self, options: MigrationOptions = FOLLOW) -> None:
        await self.session.start(self.migration_id, self.source, self.dest, options)

    async def until(self, condition: Callable[[MigrationView], bool]) -> MigrationView:
        """The next view that meets `condition`. A failure of the migration is raised."""
        view: MigrationView | None = None
        try:
            async with asyncio.timeout(WAIT_S):
                async for view in self.session.follow(self.migration_id):
                    if condition(view):
                        return view
                    if view.phase is Phase.FAILED:
                        raise AssertionError(f"the migration failed; {_shown(view)}")
        except TimeoutError:
            raise AssertionError(f"waited for too long; {_shown(view)}") from None
        raise AssertionError("the migration was cleaned up")

    async def until_phase(self, phase: Phase) -> MigrationView:
        return await self.until(lambda view: view.phase is phase)

    async def until_event(self, text: str) -> MigrationView:
        """Wait for a line of the timeline that contains `text`."""
        return await self.until(lambda view: any(text in event.text for event in view.events))

    async def drain(self) -> None:
        """Wait until everything that is committed on the source now is on the destination's disk."""
        with psycopg.connect(self.source, autocommit=True) as conn:
            row = conn.execute(
                "SELECT pg_logical_emit_message(true, %s, 'drain')::text", [MESSAGE_PREFIX]
            ).fetchone()
        assert row is not None
        written = Lsn.parse(row[0])
        await self.until(lambda view: view.positions.flushed_lsn >= written)

    async def compare_in_step(self, writer: Writer) -> WriterReport:
        """End the writer, drain, and compare everything except the sequences. Replication continues."""
        report = writer.stop()
        await self.drain()
        assert compare_databases(self.source, self.dest, sequences=False) == []
        assert check_conserved_sum(self.dest) == []
        assert check_markers(self.dest, report) == []
        return report

    async def switch_over(self, timeout_s: float = SWITCHOVER_S) -> list[SwitchoverStep]:
        return [step async for step in self.session.switchover(self.migration_id, timeout_s)]

    async def finish(self, writer: Writer) -> WriterReport:
        """Run the migration from any phase to its end while the writer works. Everything must be equal."""
        await self.until_phase(Phase.STREAMING)
        writer.wait_for_commits(20)
        await self.switch_over()
        report = writer.wait_until_cut_off()
        await self.until_phase(Phase.SWITCHED_OVER)
        found = problems(checks(self.source, self.dest, report))
        assert not found, "\n".join(found)
        return report


def application(uri: str) -> Writer:
    """The writer as these tests use it: three connections, at a rate that leaves CPU time for others."""
    return Writer(uri, connections=3, rate=75, reconnect_for=3.0)


def _shown(view: MigrationView | None) -> str:
    """The parts of a view that explain a test's failure."""
    if view is None:
        return "nothing was seen of it"
    timeline = "\n".join(f"{event.at:.3f} {event.level} {event.text}" for event in view.events[-20:])
    return f"phase {view.phase}, {view.failure}, {view.positions}, {view.workers}\n{timeline}"


@contextmanager
def held_up(dest: str) -> Iterator[None]:
    """A session that wants to fill table HELD on the destination waits for the end of the block."""
    with psycopg.connect(dest, options=ASKS_TO_WRITE) as blocker:
        # Rows and a lock that TRUNCATE and DELETE wait for, but not CREATE TRIGGER.
        blocker.execute("SELECT FROM shop.orders FOR UPDATE")
        yield


def all_but_held_copied(view: MigrationView) -> bool:
    waiting = {table.table.name for table in view.tables if table.state is not TableState.COPIED}
    return bool(view.tables) and waiting == {HELD}


def eventually(condition: Callable[[], bool], what: str, timeout: float = WAIT_S) -> None:
    """Poll for a condition inside another process, which sends no event."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(0.05)
