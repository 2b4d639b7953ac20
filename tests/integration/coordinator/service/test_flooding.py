"""A coordinator that strangers flood stays small, and answers others meanwhile or soon after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio
from pgmig.control.v1 import control_pb2 as pb
from pgmig.control.v1 import options_pb2

from services.shared.model import PgmigError
from tests.bench.processes import peak_mb
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services

MORE_MB = 400
"""What a flood may cost, however many take part in it. Each of these used to cost 0.9 to 3 GB."""
START = "/pgmig.control.v1.ControlService/StartMigration"
ATTACH = "/pgmig.worker.v1.WorkerService/Attach"
UNLIMITED = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.use_local_subchannel_pool", 1),
]


def huge() -> bytes:
    return pb.StartMigrationRequest(migration_id="m", source_uri="x" * (60 << 20)).SerializeToString()


def large() -> bytes:
    """Just within the limit. The servers that it names answer nothing."""
    uri = "postgresql://192.0.2.1/"
    return pb.StartMigrationRequest(
        migration_id="m", source_uri=uri + "x" * ((4 << 20) - 100), destination_uri=uri
    ).SerializeToString()


def many_values() -> bytes:
    """Within the limit as they are sent, and many times larger when they are parsed."""
    selection = options_pb2.Selection(include_tables=[""] * ((2 << 20) - 100))
    return pb.StartMigrationRequest(
        options=options_pb2.MigrationOptions(selection=selection)
    ).SerializeToString()


@dataclass(frozen=True)
class Flood:
    connections: int
    calls: int
    method: str
    request: Callable[[], bytes]


FLOODS = {
    "huge requests": Flood(12, 1, START, huge),
    "many large requests": Flood(24, 8, START, large),
    "many large registrations": Flood(24, 8, ATTACH, large),
    "many small values": Flood(24, 8, START, many_values),
}


async def pour(address: str, flood: Flood) -> set[StatusCode]:
    """So many calls on each of so many connections, at the same time."""

    request = flood.request()

    async def one(channel: Any) -> StatusCode:
        call = channel.stream_stream(flood.method)(endless(request))
        code: StatusCode = await call.code()
        return code

    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(aio.insecure_channel(address, options=UNLIMITED))
            for _ in range(flood.connections)
        ]
        return set(await asyncio.gather(*(one(channel) for channel in channels for _ in range(flood.calls))))


async def endless(request: bytes) -> AsyncIterator[bytes]:
    """One request on a stream that its sender never ends."""
    yield request
    await asyncio.Event().wait()


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_flooded_coordinator_stays_small(
    nats_server: NatsServer, tmp_path: Path, flood: Flood
) -> None:
    with Services(nats_server, tmp_path, workers=()) as services:
        before = peak_mb(services.pid("coordinator"))
        async with asyncio.timeout(200):
            codes = await pour(services.address, flood)
        assert StatusCode.RESOURCE_EXHAUSTED in codes
        assert StatusCode.OK not in codes
        async with services.session() as session, asyncio.timeout(60):
            while True:
                try:
                    assert await session.list_all() == ()
                except PgmigError as exc:
                    assert exc.policy.retry
                else:
                    break
        assert peak_mb(services.pid("coordinator")) - before < MORE_MB
