"""The standard gRPC health and reflection services, and a server with nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from services.shared.rpc.limits import limited_server
from services.shared.rpc.listening import bind

StopServing = Callable[[], Awaitable[None]]

SERVING = health_pb2.HealthCheckResponse.SERVING


async def add_health(server: aio.Server, services: Iterable[str]) -> StopServing:
    """Serve health (SERVING, for "" and each of `services`) and reflection on `server`.

    Returns a function that sets all of them to NOT_SERVING permanently.
    """
    servicer = health.aio.HealthServicer()
    for name in services:
        await servicer.set(name, SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    stop_serving: StopServing = servicer.enter_graceful_shutdown
    return stop_serving


class HealthServer:
    """The health service of a process that serves nothing else, for container and orchestrator checks.

    listen: HOST:PORT. If used as a context manager, "" means no server.
    """

    def __init__(self, listen: str) -> None:
        self._listen = listen
        self._server: aio.Server | None = None

    async def __aenter__(self) -> Self:
        if self._listen:
            await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> str:
        """Returns the bound HOST:PORT. Raises PgmigError(INVALID_ARGUMENT) if it is in use."""
        server = limited_server()
        await add_health(server, ())
        address = bind(server, self._listen, "PGMIG_HEALTH_LISTEN")
        await server.start()
        self._server = server
        return address

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
