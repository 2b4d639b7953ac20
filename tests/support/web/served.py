"""The web server on the test's own event loop, with a stand-in for the coordinator.

Not in a thread: two event loops of gRPC in one process can wait for each other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from clients.cli.local_places import LocalPlaces
from clients.cli.options import Invocation
from clients.cli.output import Output
from clients.serving import Places, ServerSettings
from clients.web.limits import DEFAULT_LIMITS, Limits
from clients.web.server import serve
from services.shared.model import MigrationView, Phase
from services.shared.rpc.server import ControlServer
from tests.fakes.control import NoWorkers, StandInControl

TOKEN = "an-operators-token-0123456789"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


Headers = dict[str, str]


@dataclass
class Served:
    """url: of the web server. http: a client of it without a token."""

    control: StandInControl
    coordinator: ControlServer
    url: str
    http: httpx.AsyncClient
    token_file: Path

    def put(self, migration_id: str = "m", phase: Phase = Phase.STREAMING, **fields: Any) -> MigrationView:
        return self.control.put(MigrationView(migration_id, phase, **fields))

    async def get(self, path: str, status: int = 200, headers: Headers | None = None) -> Any:
        response = await self.http.get(f"/api/v1/migrations{path}", headers=headers)
        assert response.status_code == status, response.text
        return response.json()

    async def post(
        self, path: str, body: object = None, status: int = 200, headers: Headers | None = None
    ) -> Any:
        """With the operator's token."""
        response = await self.http.post(
            f"/api/v1/migrations{path}",
            json=body if body is not None else {},
            headers={**AUTHORIZED, **(headers or {})},
        )
        assert response.status_code == status, response.text
        return response.json()

    def watch(
        self, migration_id: str = "m", query: str = "", name: str = "127.0.0.1", **options: Any
    ) -> connect:
        """name: the host that the client believes to speak with."""
        port = int(self.url.rpartition(":")[2])
        options = {"max_size": None, "proxy": None, "host": "127.0.0.1", "port": port, **options}
        return connect(f"ws://{name}:{port}/api/v1/migrations/{migration_id}/watch{query}", **options)


async def received(socket: ClientConnection) -> Any:
    return json.loads(await socket.recv())


@asynccontextmanager
async def serving(
    places: Places,
    token_file: Path,
    limits: Limits = DEFAULT_LIMITS,
    allowed_hosts: tuple[str, ...] = (),
    allow_hooks: bool = False,
) -> AsyncIterator[str]:
    """The URL of a web server that runs for a block."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    own = token_file.with_name("own")
    settings = ServerSettings("127.0.0.1", 0, allowed_hosts, token_file, own, allow_hooks)
    running = asyncio.create_task(serve(settings, places, lambda url, _: ready.set_result(url), limits))
    running.add_done_callback(lambda _: ready.cancel())
    try:
        yield await ready
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@asynccontextmanager
async def served(folder: Path, limits: Limits = DEFAULT_LIMITS, **settings: Any) -> AsyncIterator[Served]:
    control = StandInControl()
    coordinator = ControlServer("127.0.0.1:0", control, NoWorkers())
    address = await coordinator.start()
    token_file = folder / "token"
    token_file.write_text(TOKEN)
    try:
        places = LocalPlaces(Invocation(None, address, folder / "state", Output.JSON))
        async with (
            serving(places, token_file, limits, **settings) as url,
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http,
        ):
            yield Served(control, coordinator, url, http, token_file)
    finally:
        await coordinator.stop(0)
