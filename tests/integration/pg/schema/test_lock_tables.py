"""A server that cannot lock so many tables in one transaction: said before, and when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services.shared.model import ErrorKind, MigrationId, MigrationOptions, PgmigError, Selection
from services.shared.pg.preflight.checks import check_migration
from services.shared.pg.schema.dump import dump_schema, run_script
from services.shared.pg.schema.dump_tools import find_tools
from services.shared.pg.session.connection import connection
from tests.support.servers.installs import oldest
from tests.support.servers.postgres import PostgresServer

pytestmark = pytest.mark.xdist_group("lock_tables")

TABLES = 1500
TOGETHER = 50
MAKE = [f"CREATE TABLE public.t{number} (a text);" for number in range(TABLES)]


@pytest.fixture(scope="module")
def small() -> Iterator[PostgresServer]:
    """Room for a few hundred locks."""
    few = {"max_locks_per_transaction": "10", "max_connections": "20", "max_wal_senders": "2"}
    with PostgresServer(oldest(), settings=few, fsync=False) as server:
        yield server


@pytest.fixture(scope="module")
def source(small: PostgresServer) -> str:
    uri = small.create_database("many")
    with psycopg.connect(uri, autocommit=True) as conn:
        for first in range(0, TABLES, TOGETHER):
            conn.execute("".join(MAKE[first : first + TOGETHER]).encode())
    return uri


@pytest.fixture
def dest(small: PostgresServer) -> Iterator[str]:
    with small.fresh_database("empty") as uri:
        yield uri


async def warnings(source: str, dest: str, selection: Selection) -> list[str]:
    options = MigrationOptions(selection=selection)
    checked = await check_migration(MigrationId.parse("m"), source, dest, follow=False, options=options)
    return [warning for warning in checked.warnings if "max_locks_per_transaction" in warning]


async def test_too_few_locks_are_reported_before_anything_begins(source: str, dest: str) -> None:
    on_source, on_destination = await warnings(source, dest, Selection())
    assert on_source.startswith(f"{TABLES} locks are needed in one transaction on the source")
    assert on_destination.startswith(f"{3 * TABLES} locks are needed in one transaction on the destination")
    assert await warnings(source, dest, Selection(include_tables=("public.t1", "public.t2"))) == []


async def test_the_dump_that_finds_no_room_says_what_to_raise(source: str, tmp_path: Path) -> None:
    with pytest.raises(PgmigError) as caught:
        await dump_schema(
            await find_tools(oldest().major, oldest().major), source, None, tmp_path / "schema.dump"
        )
    assert caught.value.kind is ErrorKind.SCHEMA_FAILED
    assert "max_locks_per_transaction" in caught.value.hint


async def test_a_restore_that_finds_no_room_stops_and_says_what_to_raise(dest: str) -> None:
    async with connection(dest, "destination") as conn:
        with pytest.raises(PgmigError) as caught:
            await run_script(conn, "".join(MAKE).encode(), "pre-data")
    assert caught.value.kind is ErrorKind.SCHEMA_FAILED
    assert "lock table is full" in caught.value.message
    assert "max_locks_per_transaction" in caught.value.hint
