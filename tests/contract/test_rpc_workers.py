"""The worker API over a real loopback connection: sessions, commands, reports, broken streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from services.shared.model import (
    ApplierWork,
    Assign,
    Assignment,
    AssignmentRef,
    AssignmentStopped,
    DecoderProgress,
    ErrorKind,
    Lsn,
    MigrationId,
    PartDone,
    PgmigError,
    Register,
    Role,
    Unassign,
    WorkerCommand,
    WorkerReport,
)
from services.shared.rpc import channel
from services.shared.rpc.server import ControlServer
from services.shared.rpc.worker_link import WorkerLink
from services.shared.rpc.workers_api import Send
from tests.fakes.control_service import FakeControl
from tests.support.servers.process import free_port
from tests.support.servers.proxy import proxied

ASSIGNMENT = Assignment("a1", MigrationId("m1").reverse, ApplierWork("postgresql://u:secret@h/d", Lsn(5)))
Happening = tuple[str, object]


@dataclass
class FakeCoordinator:
    """Notes what happens; `refuse` is raised by connected, `fail_reports` reports are refused."""

    happened: asyncio.Queue[Happening] = field(default_factory=asyncio.Queue)
    sends: dict[str, Send] = field(default_factory=dict)
    refuse: PgmigError | None = None
    fail_reports: int = 0
    hold_reports: asyncio.Event | None = None
    held: set[str] = field(default_factory=set)

    def holds(self, worker_id: str) -> bool:
        return worker_id in self.held

    def connected(self, register: Register, send: Send) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.sends[register.worker_id] = send
        self.happened.put_nowait(("connected", register))

    async def report(self, worker_id: str, report: WorkerReport) -> None:
        if self.fail_reports:
            self.fail_reports -= 1
            raise PgmigError(ErrorKind.BROKER, "the state store is away")
        self.happened.put_nowait((worker_id, report))
        if self.hold_reports is not None:
            await self.hold_reports.wait()

    def disconnected(self, worker_id: str) -> None:
        self.happened.put_nowait(("disconnected", worker_id))

    async def next(self) -> Happening:
        async with asyncio.timeout(30):
            return await self.happened.get()


@dataclass
class FakeWorker:
    assignments: tuple[AssignmentRef, ...] = ()
    commands: asyncio.Queue[WorkerCommand] = field(default_factory=asyncio.Queue)

    def running(self) -> tuple[AssignmentRef, ...]:
        return self.assignments

    async def command(self, command: WorkerCommand) -> None:
        self.commands.put_nowait(command)


@asynccontextmanager
async def serving(
    coordinator: FakeCoordinator, listen: str = "127.0.0.1:0", token: str = ""
) -> AsyncIterator[str]:
    server = ControlServer(listen, FakeControl(), coordinator, token)
    address = await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


@asynccontextmanager
async def working(
    address: str, worker: FakeWorker, worker_id: str = "w1", token: str = ""
) -> AsyncIterator[WorkerLink]:
    """A running link; stopped at the end of the block, as a service would."""
    stop = asyncio.Event()
    link = WorkerLink(address, Role.APPLIER, worker_id, "host1", token)
    task = asyncio.create_task(link.run(worker, stop))
    try:
        yield link
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await task


async def test_a_worker_registers_and_commands_reach_it_at_any_time() -> None:
    coordinator, worker = FakeCoordinator(), FakeWorker((ASSIGNMENT.ref,))
    async with serving(coordinator) as address, working(address, worker):
        register = Register("w1", Role.APPLIER, "host1", (ASSIGNMENT.ref,))
        assert await coordinator.next() == ("connected", register)
        coordinator.sends["w1"](Assign(ASSIGNMENT))
        coordinator.sends["w1"](Unassign("a1"))
        async with asyncio.timeout(30):
            assert await worker.commands.get() == Assign(ASSIGNMENT)
            assert await worker.commands.get() == Unassign("a1")


async def test_reports_arrive_in_order() -> None:
    coordinator = FakeCoordinator()
    reports: list[WorkerReport] = [PartDone("a1", f"p{n}", n, n) for n in range(200)]
    async with serving(coordinator) as address, working(address, FakeWorker()) as link:
        for report in reports:
            link.report(report)
        await coordinator.next()
        assert [await coordinator.next() for _ in reports] == [("w1", report) for report in reports]


async def test_a_stopped_link_delivers_its_last_reports_and_is_seen_to_leave() -> None:
    coordinator = FakeCoordinator()
    async with serving(coordinator) as address:
        async with working(address, FakeWorker()) as link:
            await coordinator.next()
            link.report(AssignmentStopped("a1"))
        assert await coordinator.next() == ("w1", AssignmentStopped("a1"))
        assert await coordinator.next() == ("disconnected", "w1")


async def test_a_cut_connection_is_seen_at_once_and_the_worker_registers_again() -> None:
    coordinator, worker = FakeCoordinator(), FakeWorker()
    async with serving(coordinator) as address, proxied(address) as proxy, working(proxy.address, worker):
        await coordinator.next()
        worker.assignments = (ASSIGNMENT.ref,)
        proxy.cut()
        assert await coordinator.next() == ("disconnected", "w1")
        register = Register("w1", Role.APPLIER, "host1", (ASSIGNMENT.ref,))
        assert await coordinator.next() == ("connected", register)


_QUICK = {
    "grpc.keepalive_time_ms": 300,
    "grpc.keepalive_timeout_ms": 300,
    "grpc.http2.ping_timeout_ms": 300,
}
_NEVER = dict.fromkeys(_QUICK, 2**31 - 1)
_PATIENT = {"grpc.http2.max_ping_strikes": 0}


def _keepalive(options: tuple[tuple[str, int], ...], times: dict[str, int]) -> tuple[tuple[str, int], ...]:
    assert times.keys() <= dict(options).keys()
    return tuple({**dict(options), **times}.items())


async def test_a_silent_worker_is_seen_as_lost_by_keepalive(monkeypatch: pytest.MonkeyPatch) -> None:
    server_options = _keepalive(channel.SERVER_OPTIONS, _QUICK)
    monkeypatch.setattr("services.shared.rpc.limits.SERVER_OPTIONS", server_options)
    monkeypatch.setattr(channel, "CLIENT_OPTIONS", _keepalive(channel.CLIENT_OPTIONS, _NEVER))
    coordinator, worker = FakeCoordinator(), FakeWorker()
    async with serving(coordinator) as address, proxied(address) as proxy, working(proxy.address, worker):
        await coordinator.next()
        proxy.silence()
        assert await coordinator.next() == ("disconnected", "w1")


async def test_a_silent_coordinator_is_seen_as_lost_by_keepalive(monkeypatch: pytest.MonkeyPatch) -> None:
    server_options = _keepalive(channel.SERVER_OPTIONS, {**_NEVER, **_PATIENT})
    monkeypatch.setattr("services.shared.rpc.limits.SERVER_OPTIONS", server_options)
    monkeypatch.setattr(channel, "CLIENT_OPTIONS", _keepalive(channel.CLIENT_OPTIONS, _QUICK))
    coordinator, worker = FakeCoordinator(), FakeWorker()
    async with serving(coordinator) as address, proxied(address) as proxy, working(proxy.address, worker):
        await coordinator.next()
        proxy.silence()
        assert await coordinator.next() == ("disconnected", "w1")
        proxy.speak()
        assert (await coordinator.next())[0] == "connected"


async def test_reports_made_while_the_coordinator_is_away_arrive_when_it_is_back() -> None:
    before, after = FakeCoordinator(), FakeCoordinator()
    async with serving(before) as address:
        stop, worker = asyncio.Event(), FakeWorker()
        link = WorkerLink(address, Role.COPIER, "w1", "host1")
        task = asyncio.create_task(link.run(worker, stop))
        await before.next()
    link.report(DecoderProgress("a1", Lsn(1), Lsn(1), Lsn(1)))
    link.report(PartDone("a1", "p1", 1, 1))
    link.report(DecoderProgress("a1", Lsn(2), Lsn(2), Lsn(2)))
    link.report(PartDone("a1", "p2", 1, 1))
    async with serving(after, address):
        happened = [await after.next() for _ in range(4)]
        assert happened[1:] == [
            ("w1", PartDone("a1", "p1", 1, 1)),
            ("w1", DecoderProgress("a1", Lsn(2), Lsn(2), Lsn(2))),
            ("w1", PartDone("a1", "p2", 1, 1)),
        ]
        stop.set()
        await task


async def test_a_report_the_coordinator_died_over_is_repeated() -> None:
    before, after = FakeCoordinator(hold_reports=asyncio.Event()), FakeCoordinator()
    done = PartDone("a1", "p1", 1, 1)
    async with serving(before) as address:
        stop = asyncio.Event()
        link = WorkerLink(address, Role.COPIER, "w1", "host1")
        task = asyncio.create_task(link.run(FakeWorker(), stop))
        link.report(done)
        await before.next()
        assert await before.next() == ("w1", done)
    async with serving(after, address):
        await after.next()
        assert await after.next() == ("w1", done)
        stop.set()
        await task


async def test_a_report_the_coordinator_could_not_deal_with_is_repeated() -> None:
    coordinator = FakeCoordinator(fail_reports=1)
    done = PartDone("a1", "p1", 1, 1)
    async with serving(coordinator) as address, working(address, FakeWorker()) as link:
        link.report(done)
        happened = [await coordinator.next() for _ in range(4)]
    assert [what for what, _ in happened] == ["connected", "disconnected", "connected", "w1"]
    assert happened[3][1] == done


async def test_a_worker_that_attaches_again_ends_its_earlier_session_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its old stream has broken for the worker, and not yet for the coordinator."""
    server_options = _keepalive(channel.SERVER_OPTIONS, {**_NEVER, **_PATIENT})
    monkeypatch.setattr("services.shared.rpc.limits.SERVER_OPTIONS", server_options)
    monkeypatch.setattr(channel, "CLIENT_OPTIONS", _keepalive(channel.CLIENT_OPTIONS, _QUICK))
    coordinator, worker = FakeCoordinator(), FakeWorker()
    async with serving(coordinator) as address, proxied(address) as proxy, working(proxy.address, worker):
        await coordinator.next()
        stale_send = coordinator.sends["w1"]
        proxy.silence()
        assert await coordinator.next() == ("disconnected", "w1")
        proxy.speak()
        assert (await coordinator.next())[0] == "connected"
        stale_send(Unassign("old"))
        coordinator.sends["w1"](Unassign("new"))
        async with asyncio.timeout(30):
            assert await worker.commands.get() == Unassign("new")


async def test_a_refused_worker_ends_with_the_coordinators_reason() -> None:
    coordinator = FakeCoordinator(refuse=PgmigError(ErrorKind.INVALID_ARGUMENT, "no such role here"))
    async with serving(coordinator) as address:
        link = WorkerLink(address, Role.APPLIER, "w1", "host1")
        with pytest.raises(PgmigError, match="no such role here"):
            await link.run(FakeWorker(), asyncio.Event())


async def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    attempts, enough = 0, asyncio.Event()

    def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.transport.abort()
        if attempts == 3:
            enough.set()

    listener = await asyncio.start_server(refuse, "127.0.0.1", 0)
    address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    coordinator = FakeCoordinator()
    async with working(address, FakeWorker()) as link, asyncio.timeout(30):
        await enough.wait()
        assert not link.attached
        listener.close()
        async with serving(coordinator, address):
            await coordinator.next()
            warnings = [r.message for r in caplog.records if "no coordinator" in r.message]
    assert len(warnings) == 1
    assert address in warnings[0]


async def test_stop_ends_a_link_that_never_reached_a_coordinator() -> None:
    async with working(f"127.0.0.1:{free_port()}", FakeWorker()):
        pass


async def test_an_error_of_the_workers_command_handler_ends_the_link() -> None:
    class Broken(FakeWorker):
        async def command(self, command: WorkerCommand) -> None:
            raise RuntimeError("bug")

    coordinator = FakeCoordinator()
    async with serving(coordinator) as address:
        link = WorkerLink(address, Role.APPLIER, "w1", "host1")
        task = asyncio.create_task(link.run(Broken(), asyncio.Event()))
        await coordinator.next()
        coordinator.sends["w1"](Unassign("a1"))
        with pytest.raises(RuntimeError, match="bug"):
            await task
        assert await coordinator.next() == ("disconnected", "w1")
