"""The attached workers, the assignments that each runs, and the choice of workers for new assignments.

A migration requests roles with `want`. The work of a decoder or applier is given to one worker; the work of a
copier is given to every attached copier. `staff` is called after each change and gives out missing work.

A worker whose stream broke continues its work and keeps its assignments for GRACE_S. When it attaches again,
it lists the assignments that it runs, and keeps them. Assignments that it does not list have ended. After
GRACE_S, or when the worker has left for good, its assignments are given to others. If a worker lists an
assignment that is not wanted from it any more, it is ordered to stop it.

Nothing here waits or does I/O, except `release`, which waits until workers have stopped.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from services.shared.model import (
    Assign,
    Assignment,
    AssignmentFailed,
    AssignmentRef,
    AssignmentStopped,
    PgmigError,
    PipelineId,
    Register,
    Role,
    Unassign,
    Work,
    WorkerCommand,
    WorkerReport,
    WorkerView,
    back_off_s,
)

log = logging.getLogger(__name__)

GRACE_S = 5.0
STOP_WAIT_S = 15.0
BACK_OFF_S = 0.5
LONGEST_BACK_OFF_S = 15.0

Send = Callable[[WorkerCommand], None]
MakeWork = Callable[[], Work]


def error_of(report: AssignmentFailed) -> PgmigError:
    """The worker's error."""
    return PgmigError(report.kind, report.message, report.hint, report.lsn or None, report.xid)


class Listener(Protocol):
    """What a pipeline learns about its workers. Reports never contain a Register."""

    def accepts(self, assignment: AssignmentRef) -> bool:
        """Whether a worker may continue an assignment that it offers after the coordinator's restart."""

    def given(self, assignment: AssignmentRef) -> None:
        """A worker has the assignment now, newly or again after its stream broke."""

    def gone(self, role: Role) -> None:
        """The role's worker does not run it any more (a copier: one of them)."""

    def reported(self, role: Role, report: WorkerReport) -> None: ...

    def failed(self, role: Role, error: PgmigError) -> None:
        """It ended with an error; where a retry may cure it, it is given out again."""

    def unstaffed(self, role: Role) -> None:
        """No worker is attached that could run it."""


@dataclass(slots=True)
class _Worker:
    worker_id: str
    role: Role
    host: str
    send: Send
    attached: bool = True
    lost: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class _Job:
    assignment: AssignmentRef
    worker_id: str
    stopping: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Want:
    make: MakeWork
    prefix: str
    failures: int = 0
    not_before: float = 0.0


class WorkerRegistry:
    """grace_s: how long a lost worker keeps its assignments. one_of_each: there is one decoder and one
    applier at a time, so a lost one is gone for good as soon as another attaches."""

    def __init__(self, grace_s: float = GRACE_S, *, one_of_each: bool = False) -> None:
        self.grace_s = grace_s
        self._one_of_each = one_of_each
        self._workers: dict[str, _Worker] = {}
        self._jobs: dict[str, _Job] = {}
        self._wants: dict[tuple[PipelineId, Role], _Want] = {}
        self._listeners: dict[PipelineId, Listener] = {}

    # Pipelines.

    def listen(self, pipeline: PipelineId, listener: Listener) -> None:
        self._listeners[pipeline] = listener

    def forget(self, pipeline: PipelineId) -> None:
        self._listeners.pop(pipeline, None)

    def want(
        self, pipeline: PipelineId, role: Role, make: MakeWork, *, wait_s: float = 0.0, prefix: str = ""
    ) -> None:
        """Have the role filled from now on. make: called for each new assignment, whose id begins
        with `prefix`.

        wait_s: give workers that run it already that long to attach and say so.
        """
        not_before = asyncio.get_running_loop().time() + wait_s
        self._wants[pipeline, role] = _Want(make, prefix or str(pipeline), not_before=not_before)
        if wait_s:
            self._later(wait_s)
        self.staff()

    async def release(
        self, pipeline: PipelineId, roles: Collection[Role], wait_s: float = STOP_WAIT_S
    ) -> bool:
        """Stop the roles' work; whether all of it has stopped within `wait_s`."""
        for role in roles:
            self._wants.pop((pipeline, role), None)
        jobs = [job for job in self._of(pipeline) if job.assignment.role in roles]
        for job in jobs:
            self._stop(job)
        try:
            async with asyncio.timeout(wait_s):
                for job in jobs:
                    await job.ended.wait()
        except TimeoutError:
            return False
        return True

    def current(self, pipeline: PipelineId, role: Role) -> AssignmentRef | None:
        """The role's running assignment, of a worker that is attached or within its grace."""
        for job in self._of(pipeline):
            if job.assignment.role is role and not job.stopping:
                return job.assignment
        return None

    def running(self, pipeline: PipelineId) -> tuple[AssignmentRef, ...]:
        """The pipeline's assignments, except those that were ordered to stop."""
        return tuple(job.assignment for job in self._of(pipeline) if not job.stopping)

    def tell(self, command: WorkerCommand, assignment_id: str) -> None:
        """Send a command about an assignment to its worker; lost if the stream is broken."""
        job = self._jobs.get(assignment_id)
        if job is not None:
            self._workers[job.worker_id].send(command)

    def view(self, pipeline: PipelineId) -> tuple[WorkerView, ...]:
        """Who works for the pipeline."""
        busy = {job.worker_id for job in self._of(pipeline)}
        return tuple(
            WorkerView(w.worker_id, w.role, w.host, not w.attached)
            for w in self._workers.values()
            if w.worker_id in busy
        )

    # Workers.

    def holds(self, worker_id: str) -> bool:
        """Whether the worker is attached, or its work is kept for it to come back."""
        return worker_id in self._workers

    def connected(self, register: Register, send: Send) -> None:
        earlier = self._workers.pop(register.worker_id, None)
        if earlier is not None and earlier.lost is not None:
            earlier.lost.cancel()
        worker = _Worker(register.worker_id, register.role, register.host, send)
        self._workers[register.worker_id] = worker
        offered = {assignment.assignment_id for assignment in register.running}
        for job in self._run_by(register.worker_id):
            if job.assignment.assignment_id not in offered:
                self._end(job)
        for assignment in register.running:
            self._offered(worker, assignment)
        for other in list(self._workers.values()):
            if not other.attached and self._replaced(other):
                self._give_up(other)
        self.staff()

    def _replaced(self, worker: _Worker) -> bool:
        """Whether another worker has replaced this one, which is lost."""
        if not self._one_of_each or worker.role is Role.COPIER:
            return False
        others = (other for other in self._workers.values() if other is not worker and other.attached)
        return any(other.role is worker.role for other in others)

    def _offered(self, worker: _Worker, assignment: AssignmentRef) -> None:
        job = self._jobs.get(assignment.assignment_id)
        if job is None and self._acceptable(assignment):
            job = self._jobs[assignment.assignment_id] = _Job(assignment, worker.worker_id)
        if job is None or job.stopping or job.worker_id != worker.worker_id:
            worker.send(Unassign(assignment.assignment_id))
            return
        if (listener := self._listeners.get(assignment.pipeline)) is not None:
            listener.given(assignment)

    def _acceptable(self, assignment: AssignmentRef) -> bool:
        """No other worker runs it, and its pipeline continues."""
        listener = self._listeners.get(assignment.pipeline)
        alone = assignment.role is Role.COPIER or not self.current(assignment.pipeline, assignment.role)
        return alone and listener is not None and listener.accepts(assignment)

    def disconnected(self, worker_id: str) -> None:
        worker = self._workers[worker_id]
        worker.attached = False
        if self._replaced(worker):
            self._give_up(worker)
            return
        loop = asyncio.get_running_loop()
        worker.lost = loop.call_later(self.grace_s, self._give_up, worker)

    def _give_up(self, worker: _Worker) -> None:
        if self._workers.get(worker.worker_id) is not worker:
            return
        log.warning("worker %s has not reconnected: its work is given to others", worker.worker_id)
        if worker.lost is not None:
            worker.lost.cancel()
        del self._workers[worker.worker_id]
        for job in self._run_by(worker.worker_id):
            self._end(job)
        self.staff()

    def report(self, worker_id: str, report: WorkerReport) -> None:
        """Reports of an assignment that the worker does not have (any more) are ignored."""
        if isinstance(report, Register):
            return
        job = self._jobs.get(report.assignment_id)
        if job is None or job.worker_id != worker_id:
            return
        listener = self._listeners.get(job.assignment.pipeline)
        match report:
            case AssignmentStopped():
                self._end(job)
                self.staff()
            case AssignmentFailed(part_id=""):
                self._failed(job, report, listener)
            case _ if listener is not None and not job.stopping:
                listener.reported(job.assignment.role, report)

    def _failed(self, job: _Job, report: AssignmentFailed, listener: Listener | None) -> None:
        error = error_of(report)
        wanted = not job.stopping
        want = self._wants.get((job.assignment.pipeline, job.assignment.role))
        if want is not None:
            wait = back_off_s(BACK_OFF_S, LONGEST_BACK_OFF_S, want.failures)
            want.failures += 1
            want.not_before = asyncio.get_running_loop().time() + wait
            self._later(wait)
        self._end(job)
        if wanted and listener is not None:
            listener.failed(job.assignment.role, error)

    # Matching.

    def staff(self) -> None:
        """Give out what is wanted and not running."""
        now = asyncio.get_running_loop().time()
        for (pipeline, role), want in list(self._wants.items()):
            if now < want.not_before - 1e-3:
                continue
            running = {
                job.worker_id
                for job in self._of(pipeline)
                if job.assignment.role is role and not job.stopping
            }
            for worker in self._takers(role, running):
                self._give(worker, pipeline, want)
                running.add(worker.worker_id)
            if not running and (listener := self._listeners.get(pipeline)) is not None:
                listener.unstaffed(role)

    def _takers(self, role: Role, running: set[str]) -> list[_Worker]:
        able = [
            worker
            for worker in self._workers.values()
            if worker.attached and worker.role is role and worker.worker_id not in running
        ]
        if role is Role.COPIER:
            return able
        able.sort(key=lambda worker: len(self._run_by(worker.worker_id)))
        return [] if running else able[:1]

    def _give(self, worker: _Worker, pipeline: PipelineId, want: _Want) -> None:
        assignment = Assignment(f"{want.prefix}-{secrets.token_hex(6)}", pipeline, want.make())
        self._jobs[assignment.assignment_id] = _Job(assignment.ref, worker.worker_id)
        worker.send(Assign(assignment))
        if (listener := self._listeners.get(pipeline)) is not None:
            listener.given(assignment.ref)

    def _stop(self, job: _Job) -> None:
        job.stopping = True
        self._workers[job.worker_id].send(Unassign(job.assignment.assignment_id))

    def _end(self, job: _Job) -> None:
        if self._jobs.pop(job.assignment.assignment_id, None) is None:
            return
        job.ended.set()
        listener = self._listeners.get(job.assignment.pipeline)
        if listener is not None and not job.stopping:
            listener.gone(job.assignment.role)

    def _of(self, pipeline: PipelineId) -> list[_Job]:
        return [job for job in self._jobs.values() if job.assignment.pipeline == pipeline]

    def _run_by(self, worker_id: str) -> list[_Job]:
        return [job for job in self._jobs.values() if job.worker_id == worker_id]

    def _later(self, wait_s: float) -> None:
        asyncio.get_running_loop().call_later(wait_s, self.staff)
