"""Copies over TLS, past libpq and through it, give what plain ones give."""

from __future__ import annotations

import asyncio

import pytest

from services.shared.model import CopyPart, ErrorKind, MigrationId, PgmigError
from services.shared.pg.copy import relay
from services.shared.pg.copy.part import Copied, PartCopier
from services.shared.pg.session.connection import connection
from tests.support.copying.databases import (
    copy_schema,
    count,
    execute,
    exported_snapshot,
    keep_books,
    part,
    parts_of,
)
from tests.support.data.compare import compare_databases
from tests.support.data.schema import seed
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.tls import plain_uri, tls_uri

pytestmark = pytest.mark.xdist_group("heavy")

PIPELINE = MigrationId("m1").forward


async def copied(source: str, dest: str, *parts: CopyPart) -> list[Copied | None]:
    copier = PartCopier(source, dest, PIPELINE)
    try:
        return [await copier.copy(one, lambda _rows, _size: None) for one in parts]
    finally:
        await copier.close()


@pytest.fixture(params=["past libpq", "through libpq"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How encrypted connections are used."""
    if request.param == "through libpq":
        monkeypatch.setattr(relay, "has_channel", lambda _conn: False)
    return str(request.param)


async def test_both_ways_are_taken(tls_source: str, way: str) -> None:
    for uri, past in ((plain_uri(tls_source), True), (tls_uri(tls_source), way == "past libpq")):
        async with connection(uri, "source") as conn:
            assert await relay.may_relay(conn) is past


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("which", ["source", "destination", "both"])
async def test_rows_are_the_same_whichever_side_is_encrypted(
    tls_server: PostgresServer, tls_source: str, tls_dest: str, which: str
) -> None:
    seed(tls_source, 2000)
    copy_schema(tls_server.bin_dir, tls_source, tls_dest)
    await keep_books(tls_dest)
    there = (plain_uri if which == "destination" else tls_uri)(tls_source)
    here = (plain_uri if which == "source" else tls_uri)(tls_dest)
    with exported_snapshot(tls_source) as snapshot:
        parts = await parts_of(tls_source, snapshot, tls_server.install.major * 10000)
        encrypted = await copied(there, here, *parts)
        assert compare_databases(tls_source, tls_dest, sequences=False, definitions=False) == []
        execute(tls_dest, "TRUNCATE pgmig.copy_part")
        assert await copied(plain_uri(tls_source), plain_uri(tls_dest), *parts) == encrypted
    assert compare_databases(tls_source, tls_dest, sequences=False, definitions=False) == []


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize(
    ("side", "function"),
    [
        ("source", "pg_cancel_backend"),  # says so, and lives on
        ("destination", "pg_terminate_backend"),  # has no time for us: sending finds out
    ],
)
async def test_a_side_that_fails_during_the_copy_is_retried_and_leaves_nothing_on_the_destination(
    tls_source: str, tls_dest: str, encrypted: bool, side: str, function: str
) -> None:
    uris = {"source": tls_source, "destination": tls_dest}
    for uri in uris.values():
        execute(uri, "CREATE TABLE t (a text)")
    execute(tls_source, "INSERT INTO t SELECT repeat('x', 1000000) FROM generate_series(1, 50)")
    await keep_books(tls_dest)
    struck = asyncio.Event()

    def strike(_rows: int, _size: int) -> None:
        if not struck.is_set():
            struck.set()
            execute(
                uris[side],
                f"""SELECT {function}(pid) FROM pg_stat_activity
                    WHERE application_name = 'pgmig {side}' AND datname = current_database()""",
            )

    reached = tls_uri if encrypted else plain_uri
    copier = PartCopier(reached(tls_source), reached(tls_dest), PIPELINE)
    with exported_snapshot(tls_source) as snapshot:
        given = part("t", "a", snapshot=snapshot)
        with pytest.raises(PgmigError) as caught:
            await copier.copy(given, strike)
        assert caught.value.policy.retry
        assert side == "destination" or "canceling statement" in caught.value.message
        assert count(tls_dest, "t") == 0
        outcome = await copier.copy(given, lambda _rows, _size: None)
    await copier.close()
    assert outcome is not None
    assert outcome.rows == count(tls_dest, "t") == 50


@pytest.mark.usefixtures("way")
async def test_a_row_that_the_destination_refuses_is_not_quoted(tls_source: str, tls_dest: str) -> None:
    execute(tls_source, "CREATE TABLE t (a text)", "INSERT INTO t VALUES ('my \"secret\" word')")
    execute(tls_dest, "CREATE TABLE t (a int)")
    await keep_books(tls_dest)
    with exported_snapshot(tls_source) as snapshot, pytest.raises(PgmigError) as caught:
        await copied(tls_source, tls_uri(tls_dest), part("t", "a", snapshot=snapshot))
    assert caught.value.kind is ErrorKind.COPY_FAILED
    assert "invalid input syntax" in caught.value.message
    assert "secret" not in f"{caught.value!r} {caught.value.message} {caught.value.__cause__!r}"
