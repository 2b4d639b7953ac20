"""The main program of a worker: attach to the coordinator and execute what it assigns.

Decoder, copier and applier differ in their settings and in how they execute an assignment. Each gives
both to `run_worker`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

from services.shared.bus.connection import Client, bus
from services.shared.model import Role
from services.shared.rpc.health import HealthServer
from services.shared.rpc.worker_link import WorkerLink
from services.shared.runtime.assignments import AssignmentRunner, Report
from services.shared.runtime.config import ServiceSettings, worker_token
from services.shared.runtime.lifecycle import run_service

S = TypeVar("S", bound=ServiceSettings)
MakeRunner = Callable[[Client, Report, S], AssignmentRunner]
"""From the connection to NATS, where reports go, and the settings."""


def run_worker(role: Role, settings_type: type[S], make_runner: MakeRunner[S]) -> NoReturn:
    """Run the worker until it is asked to stop, then exit."""

    async def serve(settings: S, stop: asyncio.Event) -> None:
        nats_url, token = settings.nats_url.get_secret_value(), worker_token(settings)
        async with HealthServer(settings.health_listen), bus(nats_url, settings.worker_id) as client:
            link = WorkerLink(settings.coordinator, role, settings.worker_id, socket.gethostname(), token)
            await _attached(link, make_runner(client, link.report, settings), stop)

    sys.exit(run_service(role.value, serve, settings_type, arguments=sys.argv[1:]))


async def _attached(link: WorkerLink, runner: AssignmentRunner, stop: asyncio.Event) -> None:
    """Execute what the coordinator assigns until `stop` is set; the link ends last, with the last reports."""
    link_stop = asyncio.Event()
    linked = asyncio.create_task(link.run(runner, link_stop), name="link")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({linked, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await runner.close()
    link_stop.set()
    await linked
