"""All workers of a pipeline work with the same two servers, also after one of them was replaced."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context, Workers
from services.coordinator.pipeline.primary_watch import PrimaryWatch
from services.coordinator.pipeline.reports import Reports
from services.coordinator.pipeline.routing import Routing
from services.coordinator.pipeline.snapshot import Snapshot
from services.coordinator.pipeline.staffing import Staffing
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.model import (
    ApplierProgress,
    ApplierWork,
    Assign,
    Assignment,
    AssignmentStopped,
    DecoderWork,
    Endpoint,
    Lsn,
    MigrationOptions,
    Phase,
    Register,
    Role,
    Unassign,
    WorkerCommand,
)
from services.shared.runtime.changes import Changes
from tests.support.records import make_record

FORMER = Credentials("host=source dbname=d", "host=former dbname=d")
PROMOTED = Credentials("host=source dbname=d", "host=promoted dbname=d")


class Worker:
    """Runs what it is assigned, and stops when it is ordered to."""

    def __init__(self, registry: WorkerRegistry, role: Role) -> None:
        self.registry, self.role = registry, role
        self.running: list[Assignment] = []

    def attach(self) -> None:
        refs = tuple(assignment.ref for assignment in self.running)
        self.registry.connected(Register(str(self.role), self.role, "host", refs), self.command)

    def command(self, command: WorkerCommand) -> None:
        match command:
            case Assign(assignment):
                self.running.append(assignment)
            case Unassign(assignment_id):
                self.running = [one for one in self.running if one.assignment_id != assignment_id]
                asyncio.get_running_loop().call_soon(
                    self.registry.report, str(self.role), AssignmentStopped(assignment_id)
                )


class Coordinator:
    """A migration that streams. known: the connection strings, with the primaries as last found."""

    def __init__(self, *, restored: bool = False) -> None:
        self.known = FORMER
        self.found = FORMER
        record = make_record(
            migration_id="m",
            revision=7,
            phase=Phase.STREAMING,
            options=MigrationOptions(follow=True),
            source=Endpoint("source", 1, "d", "u"),
            destination=Endpoint("former", 2, "d", "u"),
            created_at=1.5,
            phase_since=2.5,
        )
        self.migration = Migration(record, lambda _: ())
        self.pipeline, self.registry, ends = self.migration.active, WorkerRegistry(), cast(PipelineEnds, self)
        snapshot = Snapshot(self.pipeline.id, self.registry, Changes())
        self.staffing = Staffing(
            self.pipeline, self.registry, ends, snapshot, Routing(), embedded=False, restored=restored
        )
        reports = Reports(self.pipeline, snapshot, Changes())
        self.registry.listen(self.pipeline.id, reports)
        context = Context(self.migration, self.pipeline, cast(Journal, None), ends)
        self.watch = PrimaryWatch(context, Workers(self.staffing, snapshot, reports))

    async def both(self) -> Credentials:
        return self.known

    async def find_primaries(self) -> bool:
        self.known = self.found
        return True

    async def phase_begins(self) -> None:
        await self.watch.begin()
        await self.staffing.staff(Role.DECODER, Role.APPLIER)


def uris_of(worker: Worker) -> list[str]:
    works = [one.work for one in worker.running]
    return [
        work.destination_uri if isinstance(work, ApplierWork) else cast(DecoderWork, work).source_uri
        for work in works
    ]


async def test_a_retried_phase_assigns_no_worker_to_a_former_primary() -> None:
    coordinator = Coordinator()
    decoder, applier = (Worker(coordinator.registry, role) for role in (Role.DECODER, Role.APPLIER))
    decoder.attach()
    applier.attach()
    await coordinator.phase_begins()
    [before] = decoder.running
    await coordinator.phase_begins()
    assert decoder.running == [before], "it continues if nothing has changed"
    coordinator.found = PROMOTED
    await coordinator.phase_begins()
    assert uris_of(applier) == [PROMOTED.destination_uri]
    assert uris_of(decoder) == [PROMOTED.source_uri]
    assert coordinator.staffing.works_with(PROMOTED)
    assert not coordinator.staffing.works_with(FORMER)


async def test_workers_with_a_former_primary_stop_before_anything_uses_the_new_one() -> None:
    coordinator = Coordinator()
    applier = Worker(coordinator.registry, Role.APPLIER)
    applier.attach()
    await coordinator.phase_begins()
    coordinator.found = PROMOTED
    await coordinator.watch.begin()
    assert applier.running == []


async def test_work_for_a_former_primary_is_not_continued_after_a_restart_of_the_coordinator() -> None:
    before, after = Coordinator(), Coordinator(restored=True)
    applier = Worker(before.registry, Role.APPLIER)
    applier.attach()
    await before.phase_begins()
    applier.registry = after.registry
    applier.attach()
    [kept] = applier.running
    after.found = PROMOTED
    await after.watch.begin()
    assert kept not in applier.running


async def test_work_for_the_same_servers_is_continued_after_a_restart_of_the_coordinator() -> None:
    before, after = Coordinator(), Coordinator(restored=True)
    applier = Worker(before.registry, Role.APPLIER)
    applier.attach()
    await before.phase_begins()
    applier.registry = after.registry
    applier.attach()
    [kept] = applier.running
    await after.phase_begins()
    assert applier.running == [kept]


async def test_all_workers_of_a_phase_use_the_servers_that_it_began_with() -> None:
    """Another primary may be found before the phase has ended because of it. Passwords are the newest."""
    coordinator = Coordinator()
    await coordinator.phase_begins()
    coordinator.known = PROMOTED
    applier, decoder = Worker(coordinator.registry, Role.APPLIER), Worker(coordinator.registry, Role.DECODER)
    applier.attach()
    assert uris_of(applier) == [FORMER.destination_uri]
    coordinator.known = Credentials(f"{FORMER.source_uri} password=new", FORMER.destination_uri)
    decoder.attach()
    assert uris_of(decoder) == [coordinator.known.source_uri]


@pytest.mark.parametrize("roles", [(Role.APPLIER,), (Role.DECODER, Role.COPIER, Role.APPLIER)])
async def test_an_applier_that_was_released_is_not_at_work(roles: tuple[Role, ...]) -> None:
    """Otherwise a switchover could begin without one."""
    coordinator = Coordinator()
    applier = Worker(coordinator.registry, Role.APPLIER)
    applier.attach()
    await coordinator.phase_begins()
    [given] = applier.running
    progress = ApplierProgress(given.assignment_id, Lsn(7), Lsn(7), 0.0, 0, 0, 0)
    coordinator.registry.report(str(Role.APPLIER), progress)
    assert coordinator.pipeline.following.live
    await coordinator.staffing.release(roles)
    assert not coordinator.pipeline.following.live
