"""The worker API's gRPC side: one session a worker, commands pushed at any time.

A session lasts as long as its stream. For one worker id the handler sees `connected`, any
number of `report`, `disconnected`, and then perhaps `connected` again; never two at once: a
worker that attaches anew while its old stream has not been seen to break ends that one first.

Reports are delivered at least once. One with a sequence number is acknowledged after
`report` has returned, and comes again, in a later session, when it was not. If `report`
raises, the session ends, and the worker attaches anew and repeats it.
"""

# ruff: noqa: N802 - gRPC names the methods

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from pgmig.v1 import worker_pb2 as pb
from pgmig.v1.worker_pb2_grpc import WorkersServicer

from services.shared.model import ErrorKind, PgmigError, Register, WorkerCommand, WorkerReport
from services.shared.rpc.control_api import Context, answering, shutting_down
from services.shared.rpc.convert_report import report_from_pb
from services.shared.rpc.convert_work import command_to_pb
from services.shared.rpc.streams import closing, until

log = logging.getLogger(__name__)

Send = Callable[[WorkerCommand], None]


class WorkerHandler(Protocol):
    """What the coordinator does about its workers."""

    def connected(self, register: Register, send: Send) -> None:
        """A worker is there. `send` never blocks and never fails; once the session has ended
        it does nothing. Raise PgmigError to refuse the worker."""

    async def report(self, worker_id: str, report: WorkerReport) -> None:
        """One report, in the order sent; perhaps one that was seen before. Never a Register."""

    def disconnected(self, worker_id: str) -> None:
        """The worker is lost, or has left: its stream has ended."""


@dataclass(slots=True, eq=False)
class _Session:
    register: Register
    outbox: asyncio.Queue[pb.WorkerCommand] = field(default_factory=asyncio.Queue)
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, command: WorkerCommand) -> None:
        if not self.ended.is_set():
            self.outbox.put_nowait(command_to_pb(command))


class WorkersApi(WorkersServicer):
    def __init__(self, handler: WorkerHandler) -> None:
        self._handler = handler
        self._sessions: dict[str, _Session] = {}
        self._stopping = False

    def stop(self) -> None:
        """End every session, and refuse new ones."""
        self._stopping = True
        for session in self._sessions.values():
            session.ending.set()

    # grpc.aio also takes a coroutine that writes, which the generated signature does not know.
    async def Attach(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.WorkerReport], context: Context
    ) -> None:
        async with answering(context, "Attach"):
            reports = aiter(request_iterator)
            first = await anext(reports, None)
            if first is None:
                return
            register = report_from_pb(first)
            if not isinstance(register, Register):
                raise PgmigError(ErrorKind.INVALID_ARGUMENT, "a worker's first report must be Register")
            session = await self._open(register)
            try:
                await self._serve(session, reports, context)
            finally:
                self._close(session)
            if self._stopping:
                raise shutting_down()
            if session.ending.is_set():
                raise PgmigError(
                    ErrorKind.FENCED, f"worker {register.worker_id} attached again from elsewhere"
                )

    async def _open(self, register: Register) -> _Session:
        worker = register.worker_id
        while (earlier := self._sessions.get(worker)) is not None:
            log.warning("worker %s attached again: ending its earlier stream", worker)
            earlier.ending.set()
            await earlier.ended.wait()
        if self._stopping:
            raise shutting_down()
        session = _Session(register)
        self._handler.connected(register, session.send)
        self._sessions[worker] = session
        log.info("worker %s (%s on %s) attached", worker, register.role, register.host)
        return session

    def _close(self, session: _Session) -> None:
        worker = session.register.worker_id
        session.ended.set()
        del self._sessions[worker]
        log.info("worker %s detached", worker)
        self._handler.disconnected(worker)

    async def _serve(
        self, session: _Session, reports: AsyncIterator[pb.WorkerReport], context: Context
    ) -> None:
        # Tells the worker that it is registered.
        await context.send_initial_metadata(())
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(_write(session, context), name="worker-commands")
            await self._read(session, reports)
            writer.cancel()

    async def _read(self, session: _Session, reports: AsyncIterator[pb.WorkerReport]) -> None:
        async with closing(until(session.ending, reports)) as open_reports:
            async for message in open_reports:
                report = report_from_pb(message)
                if isinstance(report, Register):
                    raise PgmigError(ErrorKind.INVALID_ARGUMENT, "Register must come first and once")
                await self._handler.report(session.register.worker_id, report)
                if message.sequence:
                    session.outbox.put_nowait(pb.WorkerCommand(ack=pb.Ack(sequence=message.sequence)))


async def _write(session: _Session, context: Context) -> None:
    while True:
        await context.write(await session.outbox.get())
