"""Who gets which work, keeps it, and loses it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from services.coordinator.workers.registry import Workforce
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

    def __init__(self, force: Workforce, name: str, role: Role) -> None:
        self.force, self.name, self.role = force, name, role
        self.commands: list[WorkerCommand] = []

    def attach(self, *running: Assignment) -> None:
        self.commands = []
        refs = tuple(assignment.ref for assignment in running)
        self.force.connected(Register(self.name, self.role, "host", refs), self.commands.append)

    def assigned(self) -> Assignment:
        return [command.assignment for command in self.commands if isinstance(command, Assign)][-1]


def decoder_work() -> Work:
    return DecoderWork("uri", follow=True, may_create=False, tables=())


def applier_work() -> Work:
    return ApplierWork("uri", Lsn(1))


def copier_work() -> Work:
    return CopierWork("uri", "uri")


@pytest.fixture
def force() -> Workforce:
    return Workforce(GRACE_S)


@pytest.fixture
def listening(force: Workforce) -> Listening:
    listening = Listening()
    force.listen(M, listening)
    return listening


async def test_single_role_goes_to_one_and_copying_to_all(force: Workforce, listening: Listening) -> None:
    workers = [Worker(force, f"{role}{n}", role) for role in (Role.DECODER, Role.COPIER) for n in (1, 2)]
    force.want(M, Role.DECODER, decoder_work)
    force.want(M, Role.COPIER, copier_work)
    assert set(listening.log) == {"unstaffed decoder", "unstaffed copier"}
    for worker in workers:
        worker.attach()
    assert [len(worker.commands) for worker in workers] == [1, 0, 1, 1]
    assert {view.worker_id for view in force.view(M)} == {"decoder1", "copier1", "copier2"}


async def test_two_migrations_are_spread_over_two_workers(force: Workforce, listening: Listening) -> None:
    force.listen(N, Listening())
    first, second = (Worker(force, name, Role.APPLIER) for name in ("one", "two"))
    first.attach()
    second.attach()
    force.want(M, Role.APPLIER, applier_work)
    force.want(N, Role.APPLIER, applier_work)
    assert (len(first.commands), len(second.commands)) == (1, 1)


async def test_one_set_of_workers_serves_both_directions(force: Workforce, listening: Listening) -> None:
    """Each pipeline of a migration has assignments and a listener of its own."""
    back = Listening()
    reverse = M.migration.reverse
    force.listen(reverse, back)
    worker = Worker(force, "one", Role.APPLIER)
    worker.attach()
    force.want(M, Role.APPLIER, applier_work)
    forward_work = worker.assigned()
    force.want(reverse, Role.APPLIER, applier_work)
    reverse_work = worker.assigned()
    assert (forward_work.pipeline, reverse_work.pipeline) == (M, reverse)
    force.report("one", AssignmentFailed(reverse_work.assignment_id, ErrorKind.GAP, "gone", ""))
    assert (len(listening.errors), len(back.errors)) == (0, 1)
    assert (force.current(M, Role.APPLIER), force.current(reverse, Role.APPLIER)) == (forward_work.ref, None)


async def test_worker_that_comes_back_in_time_keeps_its_work(force: Workforce, listening: Listening) -> None:
    worker, spare = Worker(force, "one", Role.DECODER), Worker(force, "two", Role.DECODER)
    worker.attach()
    force.want(M, Role.DECODER, decoder_work)
    spare.attach()
    assignment = worker.assigned()
    force.disconnected("one")
    assert force.current(M, Role.DECODER) == assignment.ref
    assert [view.lost for view in force.view(M)] == [True]
    worker.attach(assignment)
    assert worker.commands == spare.commands == []
    assert listening.log[-1] == "given decoder"


async def test_worker_that_stays_away_loses_its_work_to_another(
    force: Workforce, listening: Listening
) -> None:
    worker, spare = Worker(force, "one", Role.DECODER), Worker(force, "two", Role.DECODER)
    worker.attach()
    force.want(M, Role.DECODER, decoder_work)
    assignment = worker.assigned()
    spare.attach()
    force.disconnected("one")
    await listening.until("gone decoder")
    assert spare.assigned() != assignment
    worker.attach(assignment)  # too late
    assert worker.commands == [Unassign(assignment.assignment_id)]


async def test_restarted_worker_gets_new_work_at_once(force: Workforce, listening: Listening) -> None:
    worker = Worker(force, "one", Role.DECODER)
    worker.attach()
    force.want(M, Role.DECODER, decoder_work)
    earlier = worker.assigned()
    force.disconnected("one")
    worker.attach()
    assert listening.log[-2:] == ["gone decoder", "given decoder"]
    assert worker.assigned() != earlier


async def test_work_from_before_our_restart_is_taken_over(force: Workforce, listening: Listening) -> None:
    worker, spare = Worker(force, "one", Role.APPLIER), Worker(force, "two", Role.APPLIER)
    offered = Assignment("old", M, applier_work())
    spare.attach()
    force.want(M, Role.APPLIER, applier_work, wait_s=GRACE_S)
    worker.attach(offered)
    assert force.current(M, Role.APPLIER) == offered.ref
    await asyncio.sleep(2 * GRACE_S)  # the time in which another could have been started
    assert worker.commands == spare.commands == []


async def test_work_that_nobody_accepts_is_stopped(force: Workforce, listening: Listening) -> None:
    listening.accepting = False
    worker = Worker(force, "one", Role.APPLIER)
    worker.attach(
        Assignment("old", M, applier_work()),
        Assignment("other", MigrationId("unknown").forward, applier_work()),
    )
    assert worker.commands == [Unassign("old"), Unassign("other")]


async def test_release_waits_until_it_has_stopped(force: Workforce, listening: Listening) -> None:
    worker = Worker(force, "one", Role.APPLIER)
    worker.attach()
    force.want(M, Role.APPLIER, applier_work)
    assignment = worker.assigned()
    assert not await force.release(M, [Role.APPLIER], wait_s=0.01)
    assert worker.commands[-1] == Unassign(assignment.assignment_id)
    force.report("one", ApplierProgress(assignment.assignment_id, Lsn(1), Lsn(1), 0.0, 0, 0, 0))
    assert listening.reports == []  # nobody listens to what is stopping
    releasing = asyncio.create_task(force.release(M, [Role.APPLIER]))
    await asyncio.sleep(0)
    force.report("one", AssignmentStopped(assignment.assignment_id))
    assert await releasing
    assert "gone applier" not in listening.log


async def test_failure_that_a_retry_may_cure_is_tried_again(force: Workforce, listening: Listening) -> None:
    worker = Worker(force, "one", Role.APPLIER)
    worker.attach()
    force.want(M, Role.APPLIER, applier_work)
    first = worker.assigned()
    force.report("one", AssignmentFailed(first.assignment_id, ErrorKind.TRANSIENT, "text"))
    assert [error.kind for error in listening.errors] == [ErrorKind.TRANSIENT]
    assert worker.assigned() == first  # not at once
    listening.log.clear()
    await listening.until("given applier")
    assert worker.assigned() != first


async def test_report_of_another_worker_or_an_old_assignment_is_ignored(
    force: Workforce, listening: Listening
) -> None:
    worker, other = Worker(force, "one", Role.APPLIER), Worker(force, "two", Role.APPLIER)
    worker.attach()
    force.want(M, Role.APPLIER, applier_work)
    other.attach()
    report = AssignmentFailed(worker.assigned().assignment_id, ErrorKind.GAP, "text")
    force.report("two", report)
    force.report("one", AssignmentFailed("old", ErrorKind.GAP, "text"))
    assert listening.errors == []
    force.report("one", AssignmentFailed(worker.assigned().assignment_id, ErrorKind.INTERNAL, "text"))
    assert [error.kind for error in listening.errors] == [ErrorKind.INTERNAL]
