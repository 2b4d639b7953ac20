"""Copies over TLS, through libpq, give what plain ones give, past it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from services.shared.model import CopyPart, ErrorKind, MigrationId, PgmigError
from services.shared.pg.connection import connection
from services.shared.pg.copy import Copied, PartCopier
from services.shared.pg.copy_relay import may_relay
from tests.integration.copy_bed import (
    copy_schema,
    count,
    execute,
    exported_snapshot,
    keep_books,
    part,
    parts_of,
)
from tests.lab.compare import compare_databases
from tests.lab.installs import oldest
from tests.lab.postgres import PostgresServer
from tests.lab.schema import seed
from tests.lab.tls import plain_uri, tls_uri, turn_on_tls

MIGRATION = MigrationId("m1")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(oldest(), fsync=False) as server:
        if not turn_on_tls(server):
            pytest.skip(f"PostgreSQL {server.install.major} here was built without TLS")
        yield server


@pytest.fixture
def source(server: PostgresServer) -> Iterator[str]:
    with server.fresh_database("source") as uri:
        yield uri


@pytest.fixture
def dest(server: PostgresServer) -> Iterator[str]:
    with server.fresh_database("dest") as uri:
        yield uri


async def copied(source: str, dest: str, *parts: CopyPart) -> list[Copied | None]:
    copier = PartCopier(source, dest, MIGRATION)
    try:
        return [await copier.copy(one, lambda _rows, _size: None) for one in parts]
    finally:
        await copier.close()


async def test_an_encrypted_connection_is_left_to_libpq(source: str) -> None:
    for uri, plain in ((plain_uri(source), True), (tls_uri(source), False)):
        async with connection(uri, "source") as conn:
            assert await may_relay(conn) is plain


@pytest.mark.parametrize("which", ["source", "destination", "both"])
async def test_rows_are_the_same_whichever_side_is_encrypted(
    server: PostgresServer, source: str, dest: str, which: str
) -> None:
    seed(source, 2000)
    copy_schema(server.bin_dir, source, dest)
    await keep_books(dest)
    there = (plain_uri if which == "destination" else tls_uri)(source)
    here = (plain_uri if which == "source" else tls_uri)(dest)
    with exported_snapshot(source) as snapshot:
        parts = await parts_of(source, snapshot, server.install.major * 10000)
        encrypted = await copied(there, here, *parts)
        assert compare_databases(source, dest, sequences=False, definitions=False) == []
        execute(dest, "TRUNCATE pgmig.copy_part")
        assert await copied(plain_uri(source), plain_uri(dest), *parts) == encrypted
    assert compare_databases(source, dest, sequences=False, definitions=False) == []


@pytest.mark.parametrize("encrypted", [True, False])
async def test_a_source_that_fails_in_the_middle_leaves_nothing_on_the_destination(
    source: str, dest: str, encrypted: bool
) -> None:
    for uri in (source, dest):
        execute(uri, "CREATE TABLE t (a text)")
    execute(source, "INSERT INTO t SELECT repeat('x', 1000000) FROM generate_series(1, 50)")
    await keep_books(dest)
    cancelled = asyncio.Event()

    def cancel(_rows: int, _size: int) -> None:
        if not cancelled.is_set():
            cancelled.set()
            execute(
                source,
                """SELECT pg_cancel_backend(pid) FROM pg_stat_activity
                   WHERE application_name = 'pgmig source' AND datname = current_database()""",
            )

    there = (tls_uri if encrypted else plain_uri)(source)
    copier = PartCopier(there, plain_uri(dest), MIGRATION)
    with exported_snapshot(source) as snapshot:
        given = part("t", "a", snapshot=snapshot)
        with pytest.raises(PgmigError) as caught:
            await copier.copy(given, cancel)
        assert caught.value.kind is ErrorKind.TRANSIENT
        assert "canceling statement" in caught.value.message
        assert count(dest, "t") == 0
        outcome = await copier.copy(given, lambda _rows, _size: None)
    await copier.close()
    assert outcome is not None
    assert outcome.rows == count(dest, "t") == 50


async def test_a_row_that_the_destination_refuses_is_not_quoted(source: str, dest: str) -> None:
    execute(source, "CREATE TABLE t (a text)", "INSERT INTO t VALUES ('my \"secret\" word')")
    execute(dest, "CREATE TABLE t (a int)")
    await keep_books(dest)
    with exported_snapshot(source) as snapshot, pytest.raises(PgmigError) as caught:
        await copied(source, tls_uri(dest), part("t", "a", snapshot=snapshot))
    assert caught.value.kind is ErrorKind.COPY_FAILED
    assert "invalid input syntax" in caught.value.message
    assert "secret" not in f"{caught.value!r} {caught.value.message} {caught.value.__cause__!r}"
