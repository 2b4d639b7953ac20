"""Health checks and reflection of the gRPC servers."""

from __future__ import annotations

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

from services.shared.rpc.health import HealthServer
from tests.fakes.control_service import FakeControl, serving


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
