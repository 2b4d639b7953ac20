"""A worker's side of the worker API: a stream to the coordinator that is always being restored.

The link dials, proves itself and has the coordinator prove itself (`handshake`), registers what
runs, passes commands on and sends reports. When the stream breaks it tries again for ever with
back-off, and registers anew: the worker moves data all the while. Reports are kept by the outbox
and arrive at least once.

One task reads and one writes. Only the reader decides that a stream has ended, so that a
command which is being carried out is never cut off by a failing write.
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
from services.shared.rpc.convert_work import command_from_pb, register_to_pb
from services.shared.rpc.handshake import HANDSHAKE_S, answer, new_key, new_nonce, unproven
from services.shared.rpc.outbox import Outbox
from services.shared.rpc.status import error_from_rpc

log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
FAREWELL_S = 2.0
"""How long `run` waits, once stopped, for its last reports to be acknowledged."""

_REFUSED = frozenset({ErrorKind.INVALID_ARGUMENT, ErrorKind.AUTHENTICATION})

_Call = aio.StreamStreamCall[pb.AttachRequest, pb.AttachResponse]


class WorkerCommandHandler(Protocol):
    """What the worker does about commands."""

    def running(self) -> tuple[AssignmentRef, ...]:
        """The assignments that run now, to be registered."""

    async def command(self, command: WorkerCommand) -> None:
        """Carry out one command; the next comes after it has returned. An exception ends `run`."""


class WorkerLink:
    """Make it inside a running event loop, one for each process; `run` it once.

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
        """Whether the coordinator has this worker registered, as far as can be seen here."""
        return self._attached

    def report(self, report: WorkerReport) -> None:
        """Send when possible; never blocks. Call it on the event loop's thread."""
        self._outbox.put(report)
        self._changed.set()
        if not self._outbox.settled:
            self._settled.clear()

    async def run(self, handler: WorkerCommandHandler, stop: asyncio.Event) -> None:
        """Keep the worker attached until `stop` is set, then wait shortly for the last reports.

        Stop the assignments before setting `stop`, so that their reports are sent. Raises
        PgmigError(INVALID_ARGUMENT, AUTHENTICATION) if the coordinator refuses the worker. With a
        secret, nobody else can do that: who has not proved to know it is tried again.
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
        """One stream from start to end; returns why it ended."""
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
        """Register, then carry out commands until the stream ends."""
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
        with contextlib.suppress(asyncio.InvalidStateError):  # ended already: reading says why
            await call.write(message)

    async def _expect(self, call: _Call, kind: str) -> pb.AttachResponse | None:
        """The next message of the handshake; None: the stream has ended, and reading says why."""
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
        except PgmigError as exc:  # a newer coordinator's; the other commands still matter
            log.error("%s", exc)
            return
        await handler.command(command)

    async def _write(self, call: _Call) -> None:
        """Send reports as they come; ends quietly with the stream, which the reader notices."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                while (message := self._outbox.take()) is not None:
                    await call.write(message)
        except (aio.AioRpcError, asyncio.InvalidStateError):
            return

    async def _pause(self, error: PgmigError, stop: asyncio.Event) -> None:
        """Wait before the next attempt; an outage is logged once, when it begins."""
        if self._failures == 0:
            log.warning("no coordinator, trying again until there is one: %s", error)
        wait_s = back_off_s(FIRST_WAIT_S, LONGEST_WAIT_S, self._failures)
        self._failures += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter
                await stop.wait()
