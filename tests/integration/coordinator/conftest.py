"""All services as processes, and the smallest database that they can migrate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from nats.aio.client import Client

from services.shared.bus.connection import connect_bus
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services


@pytest.fixture
def services(nats_server: NatsServer, tmp_path: Path) -> Iterator[Services]:
    """A coordinator and one worker of each kind."""
    with Services(nats_server, tmp_path) as running:
        yield running


@pytest.fixture
def source(source_db: str) -> str:
    """The URI of a database with an empty table."""
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY)")
    return source_db


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    """The test's own connection to NATS."""
    client = await connect_bus(nats_server.url, "test")
    yield client
    await client.close()
