"""Running assignments as tasks: how every worker executes the coordinator's commands.

Theory of operation. Each assignment runs as one asyncio task, created from the service's
`run(assignment)`. `run` retries errors that a retry may cure, and raises all others:

- `run` raises PgmigError (alone or in an ExceptionGroup): AssignmentFailed with its kind.
- `run` raises anything else: AssignmentFailed(INTERNAL), and the traceback is logged.
- Unassign: the task is cancelled and awaited, then AssignmentStopped is reported. An unknown assignment
  gets the same answer, since the first answer may have been lost with the stream.
- Assign of an id that runs already is a repetition after a reconnect. It changes nothing.
- OpenSnapshot and CloseSnapshot may take long and must not delay a later Unassign. They run
  concurrently with the assignment, one after the other, and end with it. If one of them fails, the
  assignment fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from services.shared.model import (
    Assign,
    Assignment,
    AssignmentFailed,
    AssignmentRef,
    AssignmentRetrying,
    AssignmentStopped,
    CloseSnapshot,
    ErrorKind,
    Lsn,
    OpenSnapshot,
    PgmigError,
    Unassign,
    WorkerCommand,
    WorkerReport,
)

log = logging.getLogger(__name__)

STOP_AGAIN_S = 5.0

Run = Callable[[Assignment], Coroutine[None, None, None]]
Report = Callable[[WorkerReport], None]
OnSnapshot = Callable[[OpenSnapshot | CloseSnapshot], Coroutine[None, None, None]]


def cause(exc: BaseException) -> PgmigError | None:
    """The PgmigError that explains `exc`: `exc` itself, or the most severe in an ExceptionGroup.

    An error that no retry cures is more severe than one that a retry may cure. Returns None if the group
    contains any other exception, because an expected error must not hide an unexpected one.
    """
    if isinstance(exc, PgmigError):
        return exc
    if not isinstance(exc, BaseExceptionGroup):
        return None
    found = [cause(inner) for inner in exc.exceptions]
    explained = [error for error in found if error is not None]
    if len(explained) < len(found):
        return None
    return min(explained, key=lambda error: error.policy.retry)


def failed(assignment_id: str, exc: BaseException, part_id: str = "") -> AssignmentFailed:
    """The report of `exc`. An error that is not a PgmigError is logged with its traceback."""
    error = cause(exc)
    if error is None:
        log.error("assignment %s failed unexpectedly", assignment_id, exc_info=exc)
        error = PgmigError(
            ErrorKind.INTERNAL,
            f"unexpected {type(exc).__name__} in assignment {assignment_id}",
            "see the worker's log for the traceback",
        )
    return AssignmentFailed(
        assignment_id,
        error.kind,
        error.message,
        error.hint,
        error.lsn or Lsn(0),
        part_id,
        error.xid,
    )


def retried(assignment_id: str, error: PgmigError) -> AssignmentRetrying:
    """The report of an error after which the worker retries without the coordinator."""
    return AssignmentRetrying(assignment_id, error.kind, error.message, error.hint)


@dataclass(slots=True)
class _Running:
    """beside: snapshot commands that are running, one at a time by `turn`. error: why one of them
    failed. stopping: the assignment was asked to end. Task.cancelling() cannot be used instead, because a
    TaskGroup inside the task may leave it raised after its own failure."""

    assignment: Assignment
    task: asyncio.Task[None] = field(init=False)
    beside: set[asyncio.Task[None]] = field(default_factory=set)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    error: Exception | None = None
    stopping: bool = False


class AssignmentRunner:
    """Starts and stops the assignments of one worker process, and reports their end."""

    def __init__(self, run: Run, report: Report, on_snapshot: OnSnapshot | None = None) -> None:
        self._run = run
        self._report = report
        self._on_snapshot = on_snapshot
        self._running: dict[str, _Running] = {}

    def running(self) -> tuple[AssignmentRef, ...]:
        """The running assignments, registered again with the coordinator after a reconnect."""
        return tuple(entry.assignment.ref for entry in self._running.values())

    async def command(self, command: WorkerCommand) -> None:
        """Start executing one command. Unassign: returns when nothing of the assignment runs any more."""
        match command:
            case Assign(assignment):
                self._start(assignment)
            case Unassign(assignment_id):
                await self._stop(assignment_id)
                self._report(AssignmentStopped(assignment_id))
            case OpenSnapshot() | CloseSnapshot():
                self._snapshot(command)

    async def close(self) -> None:
        """Cancel and await everything, without reports, because the process ends."""
        for assignment in self.running():
            entry = self._running[assignment.assignment_id]
            entry.stopping = True
            entry.task.cancel()
        for assignment in self.running():
            await self._stop(assignment.assignment_id)

    def _start(self, assignment: Assignment) -> None:
        key = assignment.assignment_id
        if key in self._running:
            return
        name = f"{assignment.role}-{assignment.pipeline}-{key}"
        migration, direction = assignment.pipeline.migration, assignment.pipeline.direction
        log.info("assignment %s: %s for migration %s, %s", key, assignment.role, migration, direction)
        entry = _Running(assignment)
        entry.task = asyncio.create_task(self._guarded(entry), name=name)
        self._running[key] = entry
        # Also called if the task is cancelled before its first step, when none of our code runs.
        entry.task.add_done_callback(lambda _task: self._running.pop(key, None))

    async def _guarded(self, entry: _Running) -> None:
        key = entry.assignment.assignment_id
        try:
            await self._run(entry.assignment)
        except asyncio.CancelledError:
            if entry.error is None:
                raise
            self._fail(key, entry.error)
        except Exception as exc:
            if entry.stopping:
                log.warning("assignment %s failed while stopping: %s", key, exc)
            else:
                self._fail(key, exc)
        finally:
            await _cancelled(entry.beside)

    def _fail(self, assignment_id: str, exc: BaseException) -> None:
        self._running.pop(assignment_id, None)
        report = failed(assignment_id, exc)
        log.error("assignment %s failed: %s", assignment_id, report.message)
        self._report(report)

    async def _stop(self, assignment_id: str) -> None:
        entry = self._running.get(assignment_id)
        if entry is None:
            return
        entry.stopping = True
        await _cancelled({entry.task})
        log.info("assignment %s stopped", assignment_id)

    def _snapshot(self, command: OpenSnapshot | CloseSnapshot) -> None:
        entry = self._running.get(command.assignment_id)
        if entry is None or self._on_snapshot is None:
            log.warning("this worker cannot execute %s", command)
            return
        name = f"{entry.task.get_name()}-snapshot"
        task = asyncio.create_task(self._beside(entry, self._on_snapshot, command), name=name)
        entry.beside.add(task)
        task.add_done_callback(entry.beside.discard)

    async def _beside(
        self, entry: _Running, on_snapshot: OnSnapshot, command: OpenSnapshot | CloseSnapshot
    ) -> None:
        try:
            async with entry.turn:
                await on_snapshot(command)
        except Exception as exc:
            entry.error = exc
            entry.task.cancel()


async def _cancelled(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel `tasks` and wait for them to end. The cancellation is repeated, because a library's
    `wait_for` may lose one that arrives together with its result. wait() is used instead of await, so that
    the end of a task is not confused with our own cancellation."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=STOP_AGAIN_S)
