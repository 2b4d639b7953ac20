"""pgmig-applier: builds the applier from its parts and runs it."""

from __future__ import annotations

import asyncio
import socket
import sys

from services.applier.handler import applier_runner
from services.shared.bus.connection import bus
from services.shared.model import Role
from services.shared.rpc.health import HealthServer
from services.shared.rpc.worker_link import WorkerLink
from services.shared.runtime.config import ServiceSettings, worker_token
from services.shared.runtime.lifecycle import run_service


async def serve(settings: ServiceSettings, stop: asyncio.Event) -> None:
    """Attach to the coordinator and run its assignments until `stop` is set."""
    nats_url = settings.nats_url.get_secret_value()
    token = worker_token(settings)
    async with HealthServer(settings.health_listen), bus(nats_url, settings.worker_id) as client:
        link = WorkerLink(settings.coordinator, Role.APPLIER, settings.worker_id, socket.gethostname(), token)
        runner = applier_runner(client, link.report)
        link_stop = asyncio.Event()
        linked = asyncio.create_task(link.run(runner, link_stop), name="link")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({linked, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await runner.close()
        link_stop.set()
        await linked


def main() -> None:
    sys.exit(run_service("applier", serve, arguments=sys.argv[1:]))


if __name__ == "__main__":
    main()
