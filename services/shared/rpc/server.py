"""The coordinator's gRPC server: control API, worker API, health and reflection on one port."""

from __future__ import annotations

import asyncio

from pgmig.control.v1 import control_pb2
from pgmig.control.v1.control_pb2_grpc import add_ControlServiceServicer_to_server
from pgmig.worker.v1 import worker_pb2
from pgmig.worker.v1.worker_pb2_grpc import add_WorkerServiceServicer_to_server

from services.shared.rpc.channel import server_interceptors
from services.shared.rpc.control_api import ControlApi
from services.shared.rpc.control_handler import ControlHandler
from services.shared.rpc.health import StopServing, add_health
from services.shared.rpc.limits import limited_server
from services.shared.rpc.listening import bind
from services.shared.rpc.workers_api import WorkerHandler, WorkersApi

STOP_GRACE_S = 5.0

_SERVICES = (
    control_pb2.DESCRIPTOR.services_by_name["ControlService"].full_name,
    worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name,
)


class ControlServer:
    """Create, start and stop it on one event loop. listen: HOST:PORT (0 for a free port), or
    unix:PATH. token: the secret that workers must know, "" for none."""

    def __init__(self, listen: str, control: ControlHandler, workers: WorkerHandler, token: str = "") -> None:
        self._listen = listen
        self._stopping = asyncio.Event()
        self._workers = WorkersApi(workers, token)
        self._stop_serving: StopServing | None = None
        self._server = limited_server(*server_interceptors())
        add_ControlServiceServicer_to_server(ControlApi(control, self._stopping), self._server)
        add_WorkerServiceServicer_to_server(self._workers, self._server)

    async def start(self) -> str:
        """Returns the bound address. Raises PgmigError(INVALID_ARGUMENT) if it is in use."""
        self._stop_serving = await add_health(self._server, _SERVICES)
        address = bind(self._server, self._listen, "PGMIG_LISTEN")
        await self._server.start()
        return address

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """End watches and worker sessions, give other calls `grace_s` seconds, then cancel them.

        This does not stop a running switchover, which belongs to the handler. Only its stream of steps ends.
        """
        self._stopping.set()
        self._workers.stop()
        if self._stop_serving is not None:
            await self._stop_serving()
        await self._server.stop(grace_s)

    async def wait(self) -> None:
        """Return when the server has stopped."""
        await self._server.wait_for_termination()
