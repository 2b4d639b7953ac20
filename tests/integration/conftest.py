"""A server that offers TLS beside plain connections, for the tests of a module, and databases for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers.installs import oldest
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.tls import turn_on_tls


@pytest.fixture(scope="module")
def tls_server() -> Iterator[PostgresServer]:
    with PostgresServer(oldest(), fsync=False) as server:
        if not turn_on_tls(server):
            pytest.skip(f"PostgreSQL {server.install.major} here was built without TLS")
        yield server


@pytest.fixture
def tls_source(tls_server: PostgresServer) -> Iterator[str]:
    """The superuser's URI of an empty database."""
    with tls_server.fresh_database("source") as uri:
        yield uri


@pytest.fixture
def tls_dest(tls_server: PostgresServer) -> Iterator[str]:
    """The superuser's URI of another empty database."""
    with tls_server.fresh_database("dest") as uri:
        yield uri
