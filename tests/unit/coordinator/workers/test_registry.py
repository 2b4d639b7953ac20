"""Who gets which work, keeps it, and loses it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from services.coordinator.workers.registry import WorkerRegistry
from services.shared.model import (
    ApplierProgress,
    ApplierWork,
    Assign,
    Assignment,
    AssignmentFailed,
    AssignmentRef,
    AssignmentStopped,
    CopierWork,
    DecoderWork,
    ErrorKind,
    Lsn,
    MigrationId,
    PgmigError,
    Register,
    Role,
    Unassign,
    Work,
    WorkerCommand,
    WorkerReport,
)

GRACE_S = 0.05
M, N = MigrationId("m").forward, MigrationId("n").forward


@dataclass
class Listening:
    accepting: bool = True
    log: list[str] = field(default_factory=list)
    reports: list[WorkerReport] = field(default_factory=list)
    errors: list[PgmigError] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def accepts(self, assignment: AssignmentRef) -> bool:
        return self.accepting

    def given(self, assignment: AssignmentRef) -> None:
        self._note(f"given {assignment.role}")

    def gone(self, role: Role) -> None:
        self._note(f"gone {role}")

    def reported(self, role: Role, report: WorkerReport) -> None:
        self.reports.append(report)

    def failed(self, role: Role, error: PgmigError) -> None:
        self.errors.append(error)
        self._note(f"failed {role}")

    def unstaffed(self, role: Role) -> None:
        self._note(f"unstaffed {role}")

    def _note(self, line: str) -> None:
        self.log.append(line)
        self.news.set()

    async def until(self, line: str) -> None:
        async with asyncio.timeout(30):
            while line not in self.log:
                self.news.clear()
                await self.news.wait()


class Worker:
    """The far end of a worker's stream."""

    def __init__(self, registry: WorkerRegistry, name: str, role: Role) -> None:
        self.registry, self.name, self.role = registry, name, role
        self.commands: list[WorkerCommand] = []

    def attach(self, *running: Assignment) -> None:
        self.commands = []
        refs = tuple(assignment.ref for assignment in running)
        self.registry.connected(Register(self.name, self.role, "host", refs), self.commands.append)

    def assigned(self) -> Assignment:
        return [command.assignment for command in self.commands if isinstance(command, Assign)][-1]


def decoder_work() -> Work:
    return DecoderWork("uri", follow=True, may_create=False, tables=())


def applier_work() -> Work:
    return ApplierWork("uri", Lsn(1))


def copier_work() -> Work:
    return CopierWork("uri", "uri")


@pytest.fixture
def registry() -> WorkerRegistry:
    return WorkerRegistry(GRACE_S)


@pytest.fixture
def listening(registry: WorkerRegistry) -> Listening:
    listening = Listening()
    registry.listen(M, listening)
    return listening


async def test_single_role_goes_to_one_and_copying_to_all(
    registry: WorkerRegistry, listening: Listening
) -> None:
    workers = [Worker(registry, f"{role}{n}", role) for role in (Role.DECODER, Role.COPIER) for n in (1, 2)]
    registry.want(M, Role.DECODER, decoder_work)
    registry.want(M, Role.COPIER, copier_work)
    assert set(listening.log) == {"unstaffed decoder", "unstaffed copier"}
    for worker in workers:
        worker.attach()
    assert [len(worker.commands) for worker in workers] == [1, 0, 1, 1]
    assert {view.worker_id for view in registry.view(M)} == {"decoder1", "copier1", "copier2"}


async def test_two_migrations_are_spread_over_two_workers(
    registry: WorkerRegistry, listening: Listening
) -> None:
    registry.listen(N, Listening())
    first, second = (Worker(registry, name, Role.APPLIER) for name in ("one", "two"))
    first.attach()
    second.attach()
    registry.want(M, Role.APPLIER, applier_work)
    registry.want(N, Role.APPLIER, applier_work)
    assert (len(first.commands), len(second.commands)) == (1, 1)


async def test_one_set_of_workers_serves_both_directions(
    registry: WorkerRegistry, listening: Listening
) -> None:
    """Each pipeline of a migration has assignments and a listener of its own."""
    back = Listening()
    reverse = M.migration.reverse
    registry.listen(reverse, back)
    worker = Worker(registry, "one", Role.APPLIER)
    worker.attach()
    registry.want(M, Role.APPLIER, applier_work)
    forward_work = worker.assigned()
    registry.want(reverse, Role.APPLIER, applier_work)
    reverse_work = worker.assigned()
    assert (forward_work.pipeline, reverse_work.pipeline) == (M, reverse)
    registry.report("one", AssignmentFailed(reverse_work.assignment_id, ErrorKind.GAP, "gone", ""))
    assert (len(listening.errors), len(back.errors)) == (0, 1)
    assert (registry.current(M, Role.APPLIER), registry.current(reverse, Role.APPLIER)) == (
        forward_work.ref,
        None,
    )


async def test_worker_that_comes_back_in_time_keeps_its_work(
    registry: WorkerRegistry, listening: Listening
) -> None:
    worker, spare = Worker(registry, "one", Role.DECODER), Worker(registry, "two", Role.DECODER)
    worker.attach()
    registry.want(M, Role.DECODER, decoder_work)
    spare.attach()
    assignment = worker.assigned()
    registry.disconnected("one")
    assert registry.current(M, Role.DECODER) == assignment.ref
    assert [view.lost for view in registry.view(M)] == [True]
    worker.attach(assignment)
    assert worker.commands == spare.commands == []
    assert listening.log[-1] == "given decoder"


async def test_worker_that_stays_away_loses_its_work_to_another(
    registry: WorkerRegistry, listening: Listening
) -> None:
    worker, spare = Worker(registry, "one", Role.DECODER), Worker(registry, "two", Role.DECODER)
    worker.attach()
    registry.want(M, Role.DECODER, decoder_work)
    assignment = worker.assigned()
    spare.attach()
    registry.disconnected("one")
    await listening.until("gone decoder")
    assert spare.assigned() != assignment
    worker.attach(assignment)  # too late
    assert worker.commands == [Unassign(assignment.assignment_id)]


async def test_restarted_worker_gets_new_work_at_once(registry: WorkerRegistry, listening: Listening) -> None:
    worker = Worker(registry, "one", Role.DECODER)
    worker.attach()
    registry.want(M, Role.DECODER, decoder_work)
    earlier = worker.assigned()
    registry.disconnected("one")
    worker.attach()
    assert listening.log[-2:] == ["gone decoder", "given decoder"]
    assert worker.assigned() != earlier


async def test_work_from_before_our_restart_is_taken_over(
    registry: WorkerRegistry, listening: Listening
) -> None:
    worker, spare = Worker(registry, "one", Role.APPLIER), Worker(registry, "two", Role.APPLIER)
    offered = Assignment("old", M, applier_work())
    spare.attach()
    registry.want(M, Role.APPLIER, applier_work, wait_s=GRACE_S)
    worker.attach(offered)
    assert registry.current(M, Role.APPLIER) == offered.ref
    await asyncio.sleep(2 * GRACE_S)  # the time in which another could have been started
    assert worker.commands == spare.commands == []


async def test_work_that_nobody_accepts_is_stopped(registry: WorkerRegistry, listening: Listening) -> None:
    listening.accepting = False
    worker = Worker(registry, "one", Role.APPLIER)
    worker.attach(
        Assignment("old", M, applier_work()),
        Assignment("other", MigrationId("unknown").forward, applier_work()),
    )
    assert worker.commands == [Unassign("old"), Unassign("other")]


async def test_release_waits_until_it_has_stopped(registry: WorkerRegistry, listening: Listening) -> None:
    worker = Worker(registry, "one", Role.APPLIER)
    worker.attach()
    registry.want(M, Role.APPLIER, applier_work)
    assignment = worker.assigned()
    assert not await registry.release(M, [Role.APPLIER], wait_s=0.01)
    assert worker.commands[-1] == Unassign(assignment.assignment_id)
    registry.report("one", ApplierProgress(assignment.assignment_id, Lsn(1), Lsn(1), 0.0, 0, 0, 0))
    assert listening.reports == []  # nobody listens to what is stopping
    releasing = asyncio.create_task(registry.release(M, [Role.APPLIER]))
    await asyncio.sleep(0)
    registry.report("one", AssignmentStopped(assignment.assignment_id))
    assert await releasing
    assert "gone applier" not in listening.log


async def test_failure_that_a_retry_may_cure_is_tried_again(
    registry: WorkerRegistry, listening: Listening
) -> None:
    worker = Worker(registry, "one", Role.APPLIER)
    worker.attach()
    registry.want(M, Role.APPLIER, applier_work)
    first = worker.assigned()
    registry.report("one", AssignmentFailed(first.assignment_id, ErrorKind.TRANSIENT, "text"))
    assert [error.kind for error in listening.errors] == [ErrorKind.TRANSIENT]
    assert worker.assigned() == first  # not at once
    listening.log.clear()
    await listening.until("given applier")
    assert worker.assigned() != first


async def test_report_of_another_worker_or_an_old_assignment_is_ignored(
    registry: WorkerRegistry, listening: Listening
) -> None:
    worker, other = Worker(registry, "one", Role.APPLIER), Worker(registry, "two", Role.APPLIER)
    worker.attach()
    registry.want(M, Role.APPLIER, applier_work)
    other.attach()
    report = AssignmentFailed(worker.assigned().assignment_id, ErrorKind.GAP, "text")
    registry.report("two", report)
    registry.report("one", AssignmentFailed("old", ErrorKind.GAP, "text"))
    assert listening.errors == []
    registry.report("one", AssignmentFailed(worker.assigned().assignment_id, ErrorKind.INTERNAL, "text"))
    assert [error.kind for error in listening.errors] == [ErrorKind.INTERNAL]
