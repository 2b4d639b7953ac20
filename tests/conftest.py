"""Real servers for tests: PostgreSQL for the whole session, a database and a NATS server for each test.

All fixtures are synchronous, so that they serve plain and async tests alike. A test that kills or
reconfigures a server starts one of its own from tests.support.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.nodeid import coerce_node_id
from hypothesis import HealthCheck, settings

from tests.support.servers.installs import newest, oldest
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

# How long an example takes says something of the machine, not of what is tested.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Whoever starts us with nohup or in the background has these ignored, and pgmig-cli takes that over.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Append a test's xdist_group to its id, by which `--dist loadgroup` keeps a group on one worker.

    pytest-xdist 3.8 does so itself, but in an attribute that pytest 9.2 no longer reads.
    """
    if config.getoption("loadgroup", default=False):
        for item in items:
            mark = item.get_closest_marker("xdist_group")
            if mark is not None and not item.nodeid.endswith(f"@{mark.args[0]}"):
                item._id = coerce_node_id(f"{item.nodeid}@{mark.args[0]}")


@pytest.fixture(scope="session")
def source_server() -> Iterator[PostgresServer]:
    """The oldest PostgreSQL there is."""
    with PostgresServer(oldest(), fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def dest_server() -> Iterator[PostgresServer]:
    """The newest PostgreSQL there is; another server than the source in any case."""
    with PostgresServer(newest(), fsync=False) as server:
        yield server


@pytest.fixture
def source_db(source_server: PostgresServer) -> Iterator[str]:
    """The superuser's URI of an empty database on the source."""
    with source_server.fresh_database("source") as uri:
        yield uri


@pytest.fixture
def dest_db(dest_server: PostgresServer) -> Iterator[str]:
    """The superuser's URI of an empty database on the destination."""
    with dest_server.fresh_database("dest") as uri:
        yield uri


@pytest.fixture
def nats_server() -> Iterator[NatsServer]:
    """A NATS server with an empty JetStream store."""
    with NatsServer() as server:
        yield server


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """An empty folder for pgmig's state files (what PGMIG_STATE_DIR names)."""
    path = tmp_path / "state"
    path.mkdir()
    return path
