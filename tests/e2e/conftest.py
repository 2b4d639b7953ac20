"""Databases with an application's schema, cloned from templates, and the suite to migrate them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.data.schema import seed
from tests.support.data.workload import Writer
from tests.support.migrations.changing import Bed, services
from tests.support.migrations.live import application
from tests.support.migrations.stack import Stack
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

TEMPLATE = "e2e_template"
ROWS = 3_000


@pytest.fixture(scope="session")
def template(source_server: PostgresServer) -> str:
    """The name of a seeded database on the source, to be copied."""
    seed(source_server.create_database(TEMPLATE), ROWS)
    return TEMPLATE


@pytest.fixture
def shop(source_server: PostgresServer, template: str) -> Iterator[str]:
    """The URI of a database with the lab's schema and some rows."""
    with source_server.fresh_database("shop", template) as uri:
        yield uri


@pytest.fixture
def writer(shop: str) -> Iterator[Writer]:
    """An application at work on `shop`."""
    with application(shop) as writer:
        yield writer


@pytest.fixture
def stack(nats_server: NatsServer, tmp_path: Path) -> Iterator[Stack]:
    """All services."""
    with Stack(nats_server, tmp_path) as stack:
        yield stack


@pytest.fixture(scope="module")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All services but the copier, for the migrations of a module's tests."""
    with services(tmp_path_factory.mktemp("services")) as stack:
        yield stack


@pytest.fixture
def bed(shared_stack: Stack, source_db: str, dest_db: str) -> Bed:
    """Two empty databases to migrate, with tables that change meanwhile."""
    return Bed(shared_stack, source_db, dest_db)
