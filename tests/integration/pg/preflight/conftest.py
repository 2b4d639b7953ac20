"""A role on the source that has no rights of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers.postgres import PostgresServer


@pytest.fixture
def role(source_server: PostgresServer) -> Iterator[str]:
    name = "plain"
    source_server.execute("DROP ROLE IF EXISTS plain")
    source_server.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    yield name
    source_server.execute("DROP ROLE IF EXISTS plain")
