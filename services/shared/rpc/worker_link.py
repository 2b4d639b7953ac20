"""A worker's side of the worker API: a stream to the coordinator, opened again whenever it breaks.

The link connects, proves its identity and checks the coordinator's (`handshake`), registers what
runs, passes commands to the worker and sends reports. When the stream breaks, the link retries without
limit, with back-off, and registers again; the worker continues to move data meanwhile. The outbox keeps
reports, so that they arrive at least once.

One task reads and one writes. Only the reader decides that a stream has ended, so that a failing write
never interrupts a command that is being executed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import Protocol

from grpc import aio
from pgmig.worker.v1 import worker_pb2 as pb
from pgmig.worker.v1.worker_pb2_grpc import WorkerServiceStub

from services.shared.model import (
    AssignmentRef,
    ErrorKind,
    PgmigError,
    Register,
    Role,
    WorkerCommand,
    WorkerReport,
    back_off_s,
)
from services.shared.rpc.channel import open_channel
from services.shared.rpc.conversion.work import command_from_pb, register_to_pb
from services.shared.rpc.handshake import HANDSHAKE_S, answer, new_key, new_nonce, unproven
from services.shared.rpc.outbox import Outbox
from services.shared.rpc.status import error_from_rpc

log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
FAREWELL_S = 2.0
"""How long `run`, once stopped, waits for the acknowledgement of its last reports."""

_REFUSED = frozenset({ErrorKind.INVALID_ARGUMENT, ErrorKind.AUTHENTICATION})

_Call = aio.StreamStreamCall[pb.AttachRequest, pb.AttachResponse]


class WorkerCommandHandler(Protocol):
    """How the worker executes commands."""

    def running(self) -> tuple[AssignmentRef, ...]:
        """The assignments that run now, to be registered."""

    async def command(self, command: WorkerCommand) -> None:
        """Execute one command. The next one is passed after it has returned. An exception ends `run`."""


class WorkerLink:
    """Create it inside a running event loop, one for each process, and call `run` once.

    token: the secret shared with the coordinator, "" for none."""

    def __init__(self, address: str, role: Role, worker_id: str, host: str, token: str = "") -> None:
        self._address = address
        self._token = token
        self._key = new_key()
        self._role = role
        self._worker_id = worker_id
        self._host = host
        self._outbox = Outbox()
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._failures = 0
        self._attached = False
        self._proven = not token

    @property
    def attached(self) -> bool:
        """Whether this worker is registered with the coordinator, as far as the link knows."""
        return self._attached

    def report(self, report: WorkerReport) -> None:
        """Send the report when possible; never blocks. Call it on the event loop's thread."""
        self._outbox.put(report)
        self._changed.set()
        if not self._outbox.settled:
            self._settled.clear()

    async def run(self, handler: WorkerCommandHandler, stop: asyncio.Event) -> None:
        """Keep the worker attached until `stop` is set, then wait briefly for the last reports.

        Stop the assignments before setting `stop`, so that their reports are sent. Raises
        PgmigError(INVALID_ARGUMENT, AUTHENTICATION) if the coordinator refuses the worker. If a secret is
        set, only a server that has proved to know it can refuse the worker; any other is tried again.
        """
        channel = open_channel(self._address, traced=False)
        stub = WorkerServiceStub(channel)
        try:
            while not stop.is_set():
                error = await self._session(stub.Attach(), handler, stop)
                if error.kind in _REFUSED and self._proven:
                    raise error
                if not stop.is_set():
                    await self._pause(error, stop)
        finally:
            await channel.close()

    async def _session(self, call: _Call, handler: WorkerCommandHandler, stop: asyncio.Event) -> PgmigError:
        """Run one stream from start to end, and return why it ended."""
        self._proven = not self._token
        reading = asyncio.create_task(self._read(call, handler), name="worker-link-read")
        stopped = asyncio.create_task(stop.wait(), name="worker-link-stop")
        try:
            await asyncio.wait({reading, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await self._farewell(reading)
            if reading.done():
                reading.result()
        except aio.AioRpcError as exc:
            error = error_from_rpc(exc, "attaching to the coordinator", self._address)
            error.__cause__ = exc
            return error
        except PgmigError as exc:
            return exc
        finally:
            self._attached = False
            for task in (reading, stopped):
                task.cancel()
            await asyncio.wait({reading, stopped})
            call.cancel()
        return PgmigError(ErrorKind.UNREACHABLE, f"the coordinator at {self._address} ended the stream")

    async def _farewell(self, reading: asyncio.Task[None]) -> None:
        """Wait until all reports are acknowledged, the stream ends, or the time is over."""
        settled = asyncio.create_task(self._settled.wait(), name="worker-link-settled")
        try:
            await asyncio.wait({reading, settled}, timeout=FAREWELL_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            settled.cancel()

    async def _read(self, call: _Call, handler: WorkerCommandHandler) -> None:
        """Register, then execute commands until the stream ends."""
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await self._register(call, handler)
        except TimeoutError:
            raise self._silent() from None
        writing = asyncio.create_task(self._write(call), name="worker-link-write")
        try:
            while (message := await call.read()) is not aio.EOF:
                if not isinstance(message, pb.AttachResponse):
                    raise TypeError(f"not a command: {type(message).__name__}")
                await self._dispatch(message, handler)
        finally:
            writing.cancel()
            await asyncio.wait({writing})

    async def _register(self, call: _Call, handler: WorkerCommandHandler) -> None:
        register = register_to_pb(Register(self._worker_id, self._role, self._host, handler.running()))
        register.nonce = new_nonce()
        await self._send(call, pb.AttachRequest(register=register))
        challenged = await self._expect(call, "challenge")
        if challenged is None:
            return
        answered = answer(self._token, register, challenged.challenge, self._key, self._address)
        self._proven = True
        await self._send(call, pb.AttachRequest(answer=answered))
        if await self._expect(call, "registered") is None:
            return
        self._outbox.rewind()
        self._changed.set()
        self._attached = True
        self._failures = 0
        log.info("attached to the coordinator at %s", self._address)

    async def _send(self, call: _Call, message: pb.AttachRequest) -> None:
        with contextlib.suppress(asyncio.InvalidStateError):  # it has ended; the reader gets the reason
            await call.write(message)

    async def _expect(self, call: _Call, kind: str) -> pb.AttachResponse | None:
        """The next message of the handshake; None: the stream has ended, and the reader gets the reason."""
        message = await call.read()
        if not isinstance(message, pb.AttachResponse):
            return None
        if message.WhichOneof("command") != kind:
            raise unproven(self._address)
        return message

    def _silent(self) -> PgmigError:
        return PgmigError(
            ErrorKind.UNREACHABLE,
            f"the server at {self._address} did not register this worker within {HANDSHAKE_S:g} s",
        )

    async def _dispatch(self, message: pb.AttachResponse, handler: WorkerCommandHandler) -> None:
        if message.WhichOneof("command") == "ack":
            self._outbox.acknowledge(message.ack.sequence)
            if self._outbox.settled:
                self._settled.set()
            return
        try:
            command = command_from_pb(message)
        except PgmigError as exc:  # from a newer coordinator; later commands are still executed
            log.error("%s", exc)
            return
        await handler.command(command)

    async def _write(self, call: _Call) -> None:
        """Send reports as they are queued. Returns when the stream ends, which the reader notices."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                while (message := self._outbox.take()) is not None:
                    await call.write(message)
        except (aio.AioRpcError, asyncio.InvalidStateError):
            return

    async def _pause(self, error: PgmigError, stop: asyncio.Event) -> None:
        """Wait before the next attempt. An outage is logged once, when it begins."""
        if self._failures == 0:
            log.warning("no coordinator, trying again until there is one: %s", error)
        wait_s = back_off_s(FIRST_WAIT_S, LONGEST_WAIT_S, self._failures)
        self._failures += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter
                await stop.wait()
