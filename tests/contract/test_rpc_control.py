"""The control API over a real loopback connection: every call, errors, streams, shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]
    reflection_pb2,
    reflection_pb2_grpc,
)

from services.shared.model import (
    CleanupResult,
    ErrorKind,
    Lsn,
    MigrationId,
    MigrationOptions,
    MigrationPlan,
    MigrationView,
    PgmigError,
    Phase,
    Register,
    StepName,
    StepState,
    SwitchoverResult,
    SwitchoverStep,
    TableId,
    TableProgress,
    TableState,
    WorkerReport,
)
from services.shared.rpc.control_client import ControlClient
from services.shared.rpc.health import HealthServer
from services.shared.rpc.server import ControlServer
from services.shared.rpc.workers_api import Send

VIEW = MigrationView("m1", Phase.STREAMING, revision=7)
STEPS = (
    SwitchoverStep(StepName.FREEZE, StepState.DONE, elapsed_ms=3),
    SwitchoverStep(
        StepName.COMMIT, StepState.DONE, "", 40, SwitchoverResult(Lsn(99), 41, 2, 1_700_000_000.5)
    ),
)


class NoWorkers:
    def holds(self, worker_id: str) -> bool:
        return False

    def connected(self, register: Register, send: Send) -> None:
        raise AssertionError("no worker is expected")

    async def report(self, worker_id: str, report: WorkerReport) -> None:
        raise AssertionError("no worker is expected")

    def disconnected(self, worker_id: str) -> None:
        raise AssertionError("no worker is expected")


CLEANED = CleanupResult(("slot pgmig_m1", "publication pgmig_m1"), ("origin",))
PLAN = MigrationPlan(("table a.b", "view c"), ("d.e",), "token", ("f",))


@dataclass
class FakeControl:
    """Answers VIEW and notes the calls; raises `error` when that is set."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    error: Exception | None = None
    views: asyncio.Queue[MigrationView | None] = field(default_factory=asyncio.Queue)
    watch_closed: asyncio.Event = field(default_factory=asyncio.Event)
    steps_closed: asyncio.Event = field(default_factory=asyncio.Event)
    more_steps: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, *call: Any) -> MigrationView:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        return VIEW

    async def start(
        self, migration_id: MigrationId, source_uri: str, destination_uri: str, options: MigrationOptions
    ) -> MigrationView:
        return self.note("start", migration_id, source_uri, destination_uri, options)

    async def get(self, migration_id: MigrationId) -> MigrationView:
        return self.note("get", migration_id)

    async def list_all(self) -> tuple[MigrationView, ...]:
        return (self.note("list_all"), replace(VIEW, migration_id="m2"))

    async def watch(self, migration_id: MigrationId) -> AsyncIterator[MigrationView]:
        yield self.note("watch", migration_id)
        try:
            while (view := await self.views.get()) is not None:
                yield view
        finally:
            self.watch_closed.set()

    async def pause(self, migration_id: MigrationId) -> MigrationView:
        return self.note("pause", migration_id)

    async def resume(
        self,
        migration_id: MigrationId,
        source_uri: str | None,
        destination_uri: str | None,
        skip_objects: tuple[str, ...],
    ) -> MigrationView:
        return self.note("resume", migration_id, source_uri, destination_uri, *skip_objects)

    async def skip_transaction(
        self,
        migration_id: MigrationId,
        lsn: Lsn,
        reason: str,
        who: str,
        *,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        return self.note("skip_transaction", migration_id, lsn, reason, who, source_uri, destination_uri)

    async def resync_tables(
        self,
        migration_id: MigrationId,
        tables: tuple[TableId, ...],
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        return self.note("resync_tables", migration_id, tables, source_uri, destination_uri)

    async def switchover(self, migration_id: MigrationId, timeout_s: float) -> AsyncIterator[SwitchoverStep]:
        self.note("switchover", migration_id, timeout_s)
        try:
            yield STEPS[0]
            await self.more_steps.wait()
            yield STEPS[1]
        finally:
            self.steps_closed.set()

    async def plan(
        self, migration_id: MigrationId, source_uri: str, destination_uri: str, options: MigrationOptions
    ) -> MigrationPlan:
        self.note("plan", migration_id, source_uri, destination_uri, options)
        return PLAN

    async def unfreeze(
        self,
        migration_id: MigrationId,
        read_only: bool,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        return self.note("unfreeze", migration_id, read_only, source_uri, destination_uri)

    async def abort(
        self, migration_id: MigrationId, source_uri: str | None = None, destination_uri: str | None = None
    ) -> MigrationView:
        return self.note("abort", migration_id, source_uri, destination_uri)

    async def cleanup(
        self,
        migration_id: MigrationId,
        force: bool,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> CleanupResult:
        self.note("cleanup", migration_id, force, source_uri, destination_uri)
        return CLEANED


@asynccontextmanager
async def serving(control: FakeControl) -> AsyncIterator[tuple[ControlServer, ControlClient]]:
    server = ControlServer("127.0.0.1:0", control, NoWorkers())
    address = await server.start()
    try:
        async with ControlClient(address) as client:
            yield server, client
    finally:
        await server.stop(0)


URIS = ("postgresql://a", "postgresql://b")
GIVEN = {"source_uri": URIS[0], "destination_uri": URIS[1]}
TABLES = (TableId("shop", "orders"), TableId("Odd.", 'na"me'))


async def test_every_call_carries_its_arguments_and_answer() -> None:
    control = FakeControl()
    options = MigrationOptions(follow=True, copy_workers=3, index_workers=4, maintenance_work_mem_kb=5)
    control.more_steps.set()
    m1 = MigrationId("m1")
    async with serving(control) as (_server, client):
        assert await client.start(m1, "postgresql://a", "postgresql://b", options) == VIEW
        assert await client.plan(m1, "postgresql://a", "postgresql://b", options) == PLAN
        assert await client.get("m1") == VIEW
        assert await client.list_all() == (VIEW, replace(VIEW, migration_id="m2"))
        assert await client.pause(m1) == VIEW
        assert await client.resume(m1) == VIEW
        assert await client.resume(m1, "postgresql://a", "postgresql://b") == VIEW
        assert await client.resume(m1, None, None, ("view app.v",)) == VIEW
        assert await client.skip_transaction("m1", Lsn(2**64 - 1), "broken", "a@b") == VIEW
        assert await client.skip_transaction("m1", Lsn(1), "broken", "a@b", **GIVEN) == VIEW
        assert await client.resync_tables(m1, TABLES) == VIEW
        assert await client.resync_tables(m1, TABLES, *URIS) == VIEW
        assert [step async for step in client.switchover(m1, 2.5)] == list(STEPS)
        assert await client.unfreeze(m1, True) == VIEW
        assert await client.unfreeze(m1, False, *URIS) == VIEW
        assert await client.abort(m1) == VIEW
        assert await client.abort(m1, "postgresql://a", "postgresql://b") == VIEW
        assert await client.cleanup(m1, force=True) == CLEANED
        assert await client.cleanup(m1, False, "postgresql://a", "postgresql://b") == CLEANED
    assert control.calls == [
        ("start", m1, "postgresql://a", "postgresql://b", options),
        ("plan", m1, "postgresql://a", "postgresql://b", options),
        ("get", m1),
        ("list_all",),
        ("pause", m1),
        ("resume", m1, None, None),
        ("resume", m1, "postgresql://a", "postgresql://b"),
        ("resume", m1, None, None, "view app.v"),
        ("skip_transaction", m1, Lsn(2**64 - 1), "broken", "a@b", None, None),
        ("skip_transaction", m1, Lsn(1), "broken", "a@b", *URIS),
        ("resync_tables", m1, TABLES, None, None),
        ("resync_tables", m1, TABLES, *URIS),
        ("switchover", m1, 2.5),
        ("unfreeze", m1, True, None, None),
        ("unfreeze", m1, False, *URIS),
        ("abort", m1, None, None),
        ("abort", m1, "postgresql://a", "postgresql://b"),
        ("cleanup", m1, True, None, None),
        ("cleanup", m1, False, "postgresql://a", "postgresql://b"),
    ]


async def test_an_error_arrives_with_kind_message_hint_and_lsn() -> None:
    control = FakeControl(error=PgmigError(ErrorKind.GAP, "slot is beyond progress", "clone again", Lsn(255)))
    async with serving(control) as (_server, client):
        with pytest.raises(PgmigError) as caught:
            await client.get("m1")
    assert caught.value.kind is ErrorKind.GAP
    assert caught.value.message == "slot is beyond progress"
    assert caught.value.hint == "clone again"
    assert caught.value.lsn == Lsn(255)


async def test_an_error_ends_a_stream_with_its_kind() -> None:
    control = FakeControl(error=PgmigError(ErrorKind.WRONG_PHASE, "m1 is paused"))
    async with serving(control) as (_server, client):
        with pytest.raises(PgmigError, match="m1 is paused"):
            await anext(client.watch("m1"))
        with pytest.raises(PgmigError, match="m1 is paused"):
            await anext(client.switchover("m1", 1))


async def test_an_error_with_very_long_text_still_arrives() -> None:
    control = FakeControl(error=PgmigError(ErrorKind.SCHEMA_FAILED, "ä" * 100_000, "ö" * 100_000))
    async with serving(control) as (_server, client):
        with pytest.raises(PgmigError) as caught:
            await client.get("m1")
    assert caught.value.kind is ErrorKind.SCHEMA_FAILED
    assert caught.value.message.startswith("äää")


async def test_an_unexpected_exception_is_logged_and_its_text_kept_from_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    control = FakeControl(error=ValueError("row value 4711"))
    async with serving(control) as (_server, client):
        with pytest.raises(PgmigError) as caught:
            await client.get("m1")
    assert caught.value.kind is ErrorKind.INTERNAL
    assert "4711" not in str(caught.value) + caught.value.hint
    assert "4711" in caplog.text


async def test_an_invalid_id_is_refused_before_the_handler_sees_it() -> None:
    control = FakeControl()
    async with serving(control) as (_server, client):
        with pytest.raises(PgmigError) as caught:
            await client.get("No; DROP")
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
    assert control.calls == []


async def test_watch_yields_each_view_and_ends_with_the_handler() -> None:
    control = FakeControl()
    later = replace(VIEW, revision=8)
    async with serving(control) as (_server, client):
        control.views.put_nowait(later)
        control.views.put_nowait(None)
        assert [view async for view in client.watch("m1")] == [VIEW, later]


async def test_a_watcher_that_leaves_closes_the_handlers_iterator() -> None:
    control = FakeControl()
    async with serving(control) as (_server, client):
        async with aclosing(client.watch("m1")) as views:
            assert await anext(views) == VIEW
        async with asyncio.timeout(30):
            await control.watch_closed.wait()


async def test_a_cancelled_watcher_closes_the_handlers_iterator() -> None:
    control = FakeControl()
    seen = asyncio.Event()

    async def watch(client: ControlClient) -> None:
        async for _view in client.watch("m1"):
            seen.set()

    async with serving(control) as (_server, client), asyncio.timeout(30):
        task = asyncio.create_task(watch(client))
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await control.watch_closed.wait()


async def test_leaving_a_switchover_closes_only_the_steps() -> None:
    control = FakeControl()
    async with serving(control) as (_server, client), asyncio.timeout(30):
        async with aclosing(client.switchover("m1", 1)) as steps:
            assert await anext(steps) == STEPS[0]
        await control.steps_closed.wait()
        assert await client.get("m1") == VIEW


async def test_stopping_the_server_ends_a_watch_as_unreachable_without_waiting_for_the_grace() -> None:
    control = FakeControl()
    async with serving(control) as (server, client), asyncio.timeout(30):
        views = client.watch("m1")
        await anext(views)
        stopping = asyncio.create_task(server.stop(60))
        with pytest.raises(PgmigError, match="shutting down") as caught:
            await anext(views)
        await stopping
        await server.wait()
    assert caught.value.kind is ErrorKind.UNREACHABLE


async def test_a_view_of_ten_thousand_tables_fits() -> None:
    control = FakeControl()
    tables = tuple(TableProgress(TableId("s" * 60, f"t{n:060}"), TableState.COPIED) for n in range(10_000))
    async with serving(control) as (_server, client):
        control.views.put_nowait(replace(VIEW, tables=tables * 4))
        control.views.put_nowait(None)
        assert len([view async for view in client.watch("m1")][1].tables) == 40_000


async def test_no_coordinator_is_unreachable_and_named(unused_address: str) -> None:
    async with ControlClient(unused_address) as client:
        with pytest.raises(PgmigError) as caught:
            await client.list_all()
    assert caught.value.kind is ErrorKind.UNREACHABLE
    assert f"cannot reach the coordinator at {unused_address}" in caught.value.message


async def test_a_missing_answer_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(FakeControl):
        async def get(self, migration_id: MigrationId) -> MigrationView:
            await asyncio.Event().wait()
            return VIEW

    monkeypatch.setattr("services.shared.rpc.control_client.DEADLINE_S", 0.1)
    async with serving(Hanging()) as (_server, client):
        with pytest.raises(PgmigError) as caught:
            await client.get("m1")
    assert caught.value.kind is ErrorKind.TIMEOUT


async def test_another_server_on_the_port_is_a_clear_error() -> None:
    first = ControlServer("127.0.0.1:0", FakeControl(), NoWorkers())
    address = await first.start()
    second = ControlServer(address, FakeControl(), NoWorkers())
    try:
        with pytest.raises(PgmigError, match=f"cannot listen on {address}"):
            await second.start()
    finally:
        await first.stop(0)
        await second.stop(0)


@pytest.mark.parametrize("service", ["", "pgmig.control.v1.ControlService", "pgmig.worker.v1.WorkerService"])
async def test_health_says_serving(service: str) -> None:
    async with serving(FakeControl()) as (_server, client), aio.insecure_channel(client.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_services() -> None:
    async with serving(FakeControl()) as (_server, client), aio.insecure_channel(client.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await call.read()
    names = {service.name for service in answer.list_services_response.service}
    assert {
        "pgmig.control.v1.ControlService",
        "pgmig.worker.v1.WorkerService",
        "grpc.health.v1.Health",
    } <= names


async def test_a_worker_process_can_serve_health_alone() -> None:
    server = HealthServer("127.0.0.1:0")
    address = await server.start()
    try:
        async with aio.insecure_channel(address) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        await server.stop()


@pytest.fixture
def unused_address() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
