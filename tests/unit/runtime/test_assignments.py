"""AssignmentRunner: commands in, tasks run, reports out."""

from __future__ import annotations

import asyncio
import logging

import pytest

from services.shared.model import (
    Assign,
    Assignment,
    AssignmentFailed,
    AssignmentStopped,
    CloseSnapshot,
    CopierWork,
    ErrorKind,
    Lsn,
    MigrationId,
    OpenSnapshot,
    PgmigError,
    Unassign,
    WorkerReport,
)
from services.shared.runtime.assignments import AssignmentRunner, cause


def assignment(key: str = "a1") -> Assignment:
    return Assignment(key, MigrationId("m1").forward, CopierWork("postgresql://s", "postgresql://d", 1))


class Worker:
    """Runs until told to fail; remembers what was reported."""

    def __init__(self) -> None:
        self.reports: list[WorkerReport] = []
        self.reported = asyncio.Event()
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.error: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.snapshots: list[OpenSnapshot | CloseSnapshot] = []
        self.snapshot_error: Exception | None = None
        self.snapshot_turn = asyncio.Event()
        self.snapshot_turn.set()
        self.snapshot_seen = asyncio.Condition()
        self.runner = AssignmentRunner(self.run, self.report, self.on_snapshot)

    async def run(self, given: Assignment) -> None:
        self.started.append(given.assignment_id)
        try:
            raise await asyncio.shield(self.error)
        finally:
            self.stopped.append(given.assignment_id)

    def report(self, report: WorkerReport) -> None:
        self.reports.append(report)
        self.reported.set()

    async def on_snapshot(self, command: OpenSnapshot | CloseSnapshot) -> None:
        async with self.snapshot_seen:
            self.snapshots.append(command)
            self.snapshot_seen.notify_all()
        await self.snapshot_turn.wait()
        if self.snapshot_error is not None:
            raise self.snapshot_error

    async def seen(self, count: int) -> None:
        async with self.snapshot_seen:
            await self.snapshot_seen.wait_for(lambda: len(self.snapshots) >= count)

    async def fail(self, error: BaseException) -> AssignmentFailed:
        self.error.set_result(error)
        await self.reported.wait()
        (report,) = self.reports
        assert isinstance(report, AssignmentFailed)
        return report


async def test_an_assignment_runs_until_it_is_unassigned() -> None:
    worker = Worker()
    await worker.runner.command(Assign(assignment()))
    await asyncio.sleep(0)
    assert worker.runner.running() == (assignment().ref,)
    await worker.runner.command(Unassign("a1"))
    assert worker.stopped == ["a1"]
    assert worker.reports == [AssignmentStopped("a1")]
    assert worker.runner.running() == ()


async def test_a_repeated_assign_changes_nothing() -> None:
    worker = Worker()
    for _ in range(2):
        await worker.runner.command(Assign(assignment()))
        await asyncio.sleep(0)
    assert worker.started == ["a1"]
    await worker.runner.close()


async def test_the_task_is_named_after_the_assignment() -> None:
    worker = Worker()
    await worker.runner.command(Assign(assignment()))
    assert "copier-m1/forward-a1" in {task.get_name() for task in asyncio.all_tasks()}
    await worker.runner.close()


async def test_unassign_of_an_unknown_assignment_is_answered() -> None:
    worker = Worker()
    await worker.runner.command(Unassign("never"))
    assert worker.reports == [AssignmentStopped("never")]


async def test_unassign_before_the_task_took_its_first_step() -> None:
    worker = Worker()
    await worker.runner.command(Assign(assignment()))
    await worker.runner.command(Unassign("a1"))
    assert worker.reports == [AssignmentStopped("a1")]
    assert worker.runner.running() == ()


async def test_a_pgmig_error_is_reported_with_kind_hint_and_lsn() -> None:
    worker = Worker()
    await worker.runner.command(Assign(assignment()))
    report = await worker.fail(PgmigError(ErrorKind.GAP, "a gap", "do this", Lsn(7)))
    assert report == AssignmentFailed("a1", ErrorKind.GAP, "a gap", "do this", Lsn(7))
    assert worker.runner.running() == ()


async def test_an_error_inside_a_task_group_is_reported_as_its_cause() -> None:
    worker = Worker()
    await worker.runner.command(Assign(assignment()))
    retryable = PgmigError(ErrorKind.BROKER, "broker")
    grave = PgmigError(ErrorKind.CORRUPT, "corrupt")
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [retryable, grave])])
    assert (await worker.fail(group)).kind == "CORRUPT"


async def test_an_unexpected_error_is_internal_and_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = Worker()
    await worker.runner.command(Assign(assignment()))
    with caplog.at_level(logging.ERROR):
        report = await worker.fail(ZeroDivisionError("secret value"))
    assert report.kind == "INTERNAL"
    assert "secret value" not in report.message
    assert "Traceback" in caplog.text


async def test_an_error_while_stopping_is_still_a_stop() -> None:
    reports: list[WorkerReport] = []

    async def run(_given: Assignment) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise PgmigError(ErrorKind.BROKER, "too late")

    runner = AssignmentRunner(run, reports.append)
    await runner.command(Assign(assignment()))
    await asyncio.sleep(0)
    await runner.command(Unassign("a1"))
    assert reports == [AssignmentStopped("a1")]


async def test_snapshot_commands_go_to_the_callback_in_order() -> None:
    worker = Worker()
    await worker.runner.command(Assign(assignment()))
    worker.snapshot_turn.clear()
    await worker.runner.command(OpenSnapshot("a1"))
    await worker.runner.command(CloseSnapshot("a1"))
    await asyncio.sleep(0)
    assert worker.snapshots == [OpenSnapshot("a1")]
    worker.snapshot_turn.set()
    await worker.seen(2)
    assert worker.snapshots == [OpenSnapshot("a1"), CloseSnapshot("a1")]
    assert worker.reports == []
    await worker.runner.close()


async def test_a_snapshot_command_of_an_unknown_assignment_is_ignored() -> None:
    worker = Worker()
    await worker.runner.command(OpenSnapshot("never"))
    assert worker.snapshots == []
    assert worker.reports == []


async def test_a_slow_snapshot_does_not_hold_up_unassign() -> None:
    worker = Worker()
    await worker.runner.command(Assign(assignment()))
    worker.snapshot_turn.clear()
    await worker.runner.command(OpenSnapshot("a1"))
    await worker.seen(1)
    await worker.runner.command(Unassign("a1"))
    assert worker.reports == [AssignmentStopped("a1")]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_failing_snapshot_fails_the_assignment() -> None:
    worker = Worker()
    worker.snapshot_error = PgmigError(ErrorKind.SLOT_EXISTS, "slot")
    await worker.runner.command(Assign(assignment()))
    await worker.runner.command(OpenSnapshot("a1"))
    await worker.reported.wait()
    assert worker.reports == [AssignmentFailed("a1", ErrorKind.SLOT_EXISTS, "slot")]
    assert worker.stopped == ["a1"]
    assert worker.runner.running() == ()


async def test_close_stops_everything_without_reports() -> None:
    worker = Worker()
    for key in ("a1", "a2"):
        await worker.runner.command(Assign(assignment(key)))
    await asyncio.sleep(0)
    await worker.runner.close()
    assert sorted(worker.stopped) == ["a1", "a2"]
    assert worker.reports == []
    assert worker.runner.running() == ()


def test_an_expected_error_does_not_hide_an_unexpected_one() -> None:
    group = ExceptionGroup("both", [PgmigError(ErrorKind.BROKER, "broker"), ValueError("x")])
    assert cause(group) is None
