"""pgmig-coordinator: builds the coordinator from its parts and runs it."""

from __future__ import annotations

import asyncio
import logging
import sys

from pydantic import SecretStr

from services.coordinator.api import ControlApiHandler, WorkersApiHandler
from services.coordinator.config import CoordinatorSettings
from services.coordinator.migration.failpoints import NAMES
from services.coordinator.pipeline.pipeline import SharedResources
from services.coordinator.registry import Coordinator
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.bus.connection import bus
from services.shared.bus.store import StateStore
from services.shared.rpc.server import ControlServer
from services.shared.runtime import failpoints
from services.shared.runtime.config import worker_token
from services.shared.runtime.files import replace_file
from services.shared.runtime.lifecycle import run_service
from services.shared.runtime.retry import retrying

log = logging.getLogger(__name__)


async def serve(settings: CoordinatorSettings, stop: asyncio.Event) -> None:
    """Serve both APIs until `stop` is set. Stored migrations are loaded and resumed before the first call."""
    failpoints.arm(settings.failpoints, NAMES)
    token = worker_token(settings)
    if not token:
        log.warning(
            "PGMIG_WORKER_TOKEN is not set: any program that reaches %s can attach as a worker",
            settings.listen,
        )
    async with bus(settings.nats_url.get_secret_value(), settings.worker_id) as client:
        worker_registry = WorkerRegistry(settings.worker_grace_s, one_of_each=settings.embedded)
        shared = SharedResources(
            client,
            worker_registry,
            settings.state_dir,
            _plain(settings.source_uri),
            _plain(settings.dest_uri),
            settings.embedded,
            settings.hooks,
        )
        store = StateStore(client, replicas=settings.state_replicas)
        coordinator = Coordinator(store, shared)
        await retrying("reading the state of migrations", coordinator.load)
        server = ControlServer(
            settings.listen, ControlApiHandler(coordinator), WorkersApiHandler(worker_registry), token
        )
        try:
            address = await server.start()
            if settings.port_file is not None:
                replace_file(settings.port_file, f"{address}\n")
            log.info("serving on %s", address)
            await stop.wait()
        finally:
            await coordinator.stop()
            await server.stop()


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def main() -> None:
    sys.exit(run_service("coordinator", serve, CoordinatorSettings, arguments=sys.argv[1:]))


if __name__ == "__main__":
    main()
