"""What a server takes from strangers: requests that stall, are large, are garbage, or are many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from grpc import StatusCode, aio
from pgmig.control.v1 import control_pb2 as control

from clients.session import Session
from services.shared.model import MigrationOptions, MigrationView, Selection
from services.shared.rpc import channel as channel_options
from services.shared.rpc import limits
from services.shared.rpc.conversion.view import options_to_pb
from services.shared.rpc.server import ControlServer
from tests.fakes.control_service import VIEW, FakeControl, NoWorkers

GET = "/pgmig.control.v1.ControlService/GetMigration"
START = "/pgmig.control.v1.ControlService/StartMigration"
WATCH = "/pgmig.control.v1.ControlService/WatchMigration"
ATTACH = "/pgmig.worker.v1.WorkerService/Attach"
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@asynccontextmanager
async def served(handler: FakeControl | None = None) -> AsyncIterator[Any]:
    """A stranger's channel to a server."""
    server = ControlServer("127.0.0.1:0", handler or FakeControl(), NoWorkers())
    address = await server.start()
    try:
        async with aio.insecure_channel(address, options=UNLIMITED) as channel:
            yield channel
    finally:
        await server.stop(0)


async def status_of(call: Any) -> StatusCode:
    async with asyncio.timeout(60):
        code = await call.code()
    assert isinstance(code, StatusCode)
    return code


def field(size: int) -> bytes:
    """Of a StartMigrationRequest whose source_uri has that many bytes."""
    return control.StartMigrationRequest(source_uri="x" * size).SerializeToString()


ONE = control.GetMigrationRequest(migration_id="m1").SerializeToString()


@pytest.mark.parametrize("method", [GET, WATCH, ATTACH])
async def test_a_request_that_does_not_arrive_in_time_ends_its_call(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(limits, "READ_S", 0.05)
    async with served() as channel:
        call = channel.stream_stream(method)()  # sends its headers, and nothing else
        await call.wait_for_connection()
        assert await status_of(call) is StatusCode.DEADLINE_EXCEEDED


async def test_stalled_requests_do_not_keep_others_out_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "READ_S", 0.2)
    async with served() as channel:
        stalled = [channel.stream_stream(GET)() for _ in range(limits.READERS)]
        codes = await asyncio.gather(*(status_of(call) for call in stalled))
        assert set(codes) == {StatusCode.DEADLINE_EXCEEDED}
        assert await channel.unary_unary(GET)(ONE)


async def test_connections_beyond_the_bound_are_closed() -> None:
    server = ControlServer("127.0.0.1:0", FakeControl(), NoWorkers())
    host, _, port = (await server.start()).rpartition(":")
    try:
        async with AsyncExitStack() as stack, asyncio.timeout(60):
            greetings = []
            for _ in range(channel_options.CONNECTIONS + 1):
                reader, writer = await asyncio.open_connection(host, int(port))
                stack.callback(writer.close)
                writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
                greetings.append(await reader.read(9))
        assert all(greetings[:-1])
        assert greetings[-1] == b""
    finally:
        await server.stop(0)


async def test_a_request_beyond_4_mb_is_refused() -> None:
    async with served() as channel:
        call = channel.unary_unary(START)(field(4 * 1024 * 1024))
        assert await status_of(call) is StatusCode.RESOURCE_EXHAUSTED


async def test_a_large_request_is_taken_where_one_is_needed() -> None:
    """A selection, or a list that was agreed to, may name tables by the thousand."""
    names = tuple(f"schema.table_with_a_long_name_{n}" for n in range(20_000))
    given = MigrationOptions(selection=Selection(include_tables=names))
    request = control.StartMigrationRequest(
        migration_id="m1", source_uri="s", destination_uri="d", options=options_to_pb(given)
    ).SerializeToString()
    assert len(request) > 10 * limits.SMALL
    async with served() as channel:
        assert await status_of(channel.unary_unary(START)(request)) is StatusCode.OK


@pytest.mark.parametrize("method", [WATCH, ATTACH])
async def test_a_stream_begins_with_a_small_request(method: str) -> None:
    async with served() as channel:
        call = channel.stream_stream(method)()
        await call.write(field(limits.SMALL + 1))
        assert await status_of(call) is StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", [GET, WATCH, ATTACH])
async def test_garbage_is_refused(method: str) -> None:
    async with served() as channel:
        call = channel.stream_stream(method)()
        await call.write(b"\xff" * 100)
        assert await status_of(call) is StatusCode.INVALID_ARGUMENT


async def test_few_large_requests_run_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LARGE_CALLS", 1)
    held, release = asyncio.Event(), asyncio.Event()

    class Slow(FakeControl):
        async def start(
            self, migration_id: Any, source_uri: str, destination_uri: str, options: MigrationOptions
        ) -> MigrationView:
            held.set()
            await release.wait()
            return VIEW

    request = (
        ONE + field(limits.SMALL) + control.StartMigrationRequest(destination_uri="d").SerializeToString()
    )
    async with served(Slow()) as channel:
        first = channel.unary_unary(START)(request)
        async with asyncio.timeout(30):
            await held.wait()
        assert await status_of(channel.unary_unary(START)(request)) is StatusCode.RESOURCE_EXHAUSTED
        release.set()
        assert await status_of(first) is StatusCode.OK
        held.clear()
        assert await status_of(channel.unary_unary(START)(request)) is StatusCode.OK


async def test_a_call_without_a_deadline_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LONGEST_CALL_S", 0.05)

    class Stuck(FakeControl):
        async def list_all(self) -> tuple[MigrationView, ...]:
            await asyncio.Event().wait()
            return ()

    async with served(Stuck()) as channel:
        call = channel.unary_unary("/pgmig.control.v1.ControlService/ListMigrations")(b"")
        assert await status_of(call) is StatusCode.DEADLINE_EXCEEDED


async def test_calls_beyond_the_limit_are_refused_and_the_others_continue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CALLS", 2)
    server = ControlServer("127.0.0.1:0", FakeControl(), NoWorkers())
    address = await server.start()
    try:
        async with Session(address) as session, AsyncExitStack() as stack:
            channel: Any = await stack.enter_async_context(aio.insecure_channel(address))
            watches = [channel.unary_stream(WATCH)(ONE) for _ in range(2)]
            for watch in watches:
                assert await watch.read()
            call = channel.unary_unary(GET)(ONE)
            assert await status_of(call) is StatusCode.RESOURCE_EXHAUSTED
            for watch in watches:
                watch.cancel()
            async with asyncio.timeout(30):
                while await status_of(channel.unary_unary(GET)(ONE)) is not StatusCode.OK:
                    await asyncio.sleep(0)
            assert await session.get("m1") == VIEW
    finally:
        await server.stop(0)
