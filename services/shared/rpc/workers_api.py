"""The gRPC server of the worker API: one session for each worker; commands are sent at any time.

A session lasts as long as its stream. It begins with a handshake (`handshake`); the handler is called
only after it. For one worker id the handler receives `connected`, any number of `report`,
`disconnected`, and then perhaps `connected` again. An id never has two sessions: if a worker attaches
again before its old stream is seen to break, the old session is ended first. Only the process that
holds the id's key can do this. When the session has ended and the handler keeps nothing for the id any
more, any process can use the id again.

Reports are delivered at least once. A report with a sequence number is acknowledged after
`report` has returned. If it was not acknowledged, it is sent again in a later session. If `report`
raises, the session ends, and the worker attaches again and repeats the report.
"""

# ruff: noqa: N802 - gRPC names the methods

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from pgmig.worker.v1 import worker_pb2 as pb
from pgmig.worker.v1.worker_pb2_grpc import WorkerServiceServicer

from services.shared.model import ErrorKind, PgmigError, Register, WorkerCommand, WorkerReport
from services.shared.rpc.control_api import Context, answering, shutting_down
from services.shared.rpc.conversion.report import report_from_pb
from services.shared.rpc.conversion.work import command_to_pb, register_from_pb
from services.shared.rpc.handshake import HANDSHAKE_S, challenge, check_answer
from services.shared.rpc.streams import closing, until

log = logging.getLogger(__name__)

Send = Callable[[WorkerCommand], None]


class WorkerHandler(Protocol):
    """What the coordinator does with its workers."""

    def holds(self, worker_id: str) -> bool:
        """Whether something is kept for this worker until it returns."""

    def connected(self, register: Register, send: Send) -> None:
        """A worker has attached. `send` never blocks and never fails; after the end of the session
        it does nothing. Raise PgmigError to refuse the worker."""

    async def report(self, worker_id: str, report: WorkerReport) -> None:
        """One report, in the order sent; it may be a repetition. Never a Register."""

    def disconnected(self, worker_id: str) -> None:
        """The worker's stream has ended, because the worker was lost or has left."""


@dataclass(slots=True, eq=False)
class _Session:
    register: Register
    key: bytes = field(repr=False)
    outbox: asyncio.Queue[pb.AttachResponse] = field(default_factory=asyncio.Queue)
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, command: WorkerCommand) -> None:
        if not self.ended.is_set():
            self.outbox.put_nowait(command_to_pb(command))


class WorkersApi(WorkerServiceServicer):
    """token: the secret that workers must know, "" for none."""

    def __init__(self, handler: WorkerHandler, token: str = "") -> None:
        self._handler = handler
        self._token = token
        self._sessions: dict[str, _Session] = {}
        self._keys: dict[str, bytes] = {}  # by worker id, while a process owns the id
        self._stopping = False

    def stop(self) -> None:
        """End every session, and refuse new ones."""
        self._stopping = True
        for session in self._sessions.values():
            session.ending.set()

    # grpc.aio also accepts a coroutine that writes, which the generated signature does not allow.
    async def Attach(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.AttachRequest], context: Context
    ) -> None:
        async with answering(context, "Attach"):
            reports = aiter(request_iterator)
            shaken = await self._shake_hands(reports, context)
            if shaken is None:
                return
            register, key = shaken
            session = await self._open(register, key)
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

    async def _shake_hands(
        self, reports: AsyncIterator[pb.AttachRequest], context: Context
    ) -> tuple[Register, bytes] | None:
        """The worker and its key; None if it has left. Raises INVALID_ARGUMENT, AUTHENTICATION, TIMEOUT."""
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                first = await anext(reports, None)
                if first is None:
                    return None
                if first.WhichOneof("report") != "register":
                    raise PgmigError(ErrorKind.INVALID_ARGUMENT, "a worker's first report must be Register")
                register = register_from_pb(first.register)
                challenged = challenge(self._token, first.register)
                await context.write(pb.AttachResponse(challenge=challenged))
                second = await anext(reports, None)
                if second is None:
                    return None
                return register, check_answer(self._token, first.register, challenged, second.answer)
        except TimeoutError:
            raise PgmigError(
                ErrorKind.TIMEOUT, f"the worker did not register within {HANDSHAKE_S:g} s"
            ) from None

    def _claim(self, worker: str, key: bytes) -> None:
        """Assign the id to the process with this key. Raises FENCED if another process owns the id."""
        for known in [one for one in self._keys if one not in self._sessions]:
            if not self._handler.holds(known):
                del self._keys[known]
        if not hmac.compare_digest(self._keys.get(worker, key), key):
            log.warning("refused a worker with the id %s, which belongs to another process", worker)
            raise PgmigError(
                ErrorKind.FENCED,
                f"worker id {worker} belongs to another process",
                "choose another PGMIG_WORKER_ID, or wait until that process is no longer attached",
            )
        self._keys[worker] = key

    async def _open(self, register: Register, key: bytes) -> _Session:
        worker = register.worker_id
        self._claim(worker, key)
        while (earlier := self._sessions.get(worker)) is not None:
            log.warning("worker %s attached again: ending its earlier stream", worker)
            earlier.ending.set()
            await earlier.ended.wait()
        if self._stopping:
            raise shutting_down()
        self._claim(worker, key)  # again, because the state may have changed during the wait
        session = _Session(register, key)
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
        self, session: _Session, reports: AsyncIterator[pb.AttachRequest], context: Context
    ) -> None:
        await context.write(pb.AttachResponse(registered=pb.Registered()))
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(_write(session, context), name="worker-commands")
            await self._read(session, reports)
            writer.cancel()

    async def _read(self, session: _Session, reports: AsyncIterator[pb.AttachRequest]) -> None:
        async with closing(until(session.ending, reports)) as open_reports:
            async for message in open_reports:
                report = report_from_pb(message)
                if isinstance(report, Register):
                    raise PgmigError(
                        ErrorKind.INVALID_ARGUMENT, "Register must be the first message, and only the first"
                    )
                await self._handler.report(session.register.worker_id, report)
                if message.sequence:
                    session.outbox.put_nowait(pb.AttachResponse(ack=pb.Ack(sequence=message.sequence)))


async def _write(session: _Session, context: Context) -> None:
    while True:
        await context.write(await session.outbox.get())
