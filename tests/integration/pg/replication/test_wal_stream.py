"""Reading a walsender, plain, by TLS, and through libpq: the same changes, long messages among them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.pg.replication import connection as replicating
from services.shared.pg.replication.connection import ReplicationConnection
from services.shared.pg.replication.libpq_wal_stream import LibpqWalStream
from services.shared.pg.replication.raw_wal_stream import RawWalStream
from services.shared.pgoutput.fragments import LONG, Fragment
from tests.support.servers.installs import oldest
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.tls import plain_uri, tls_uri, turn_on_tls

pytestmark = pytest.mark.xdist_group("wal_stream")

SLOT = "reader"
COMMIT = ord("C")


@pytest.fixture(scope="module")
def tls_server() -> Iterator[PostgresServer]:
    with PostgresServer(oldest()) as server:
        if not turn_on_tls(server):
            pytest.skip(f"PostgreSQL {server.install.major} here was built without TLS")
        yield server


@pytest.fixture(params=["plain", "tls", "libpq"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "libpq":
        monkeypatch.setattr(replicating, "has_channel", lambda _conn: False)
    return str(request.param)


@pytest.fixture
def source(tls_server: PostgresServer, way: str) -> Iterator[str]:
    with (
        tls_server.fresh_database("wal") as uri,
        psycopg.connect(plain_uri(uri), autocommit=True) as conn,
    ):
        conn.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL"
        )
        conn.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        conn.execute(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
        yield plain_uri(uri) if way == "plain" else tls_uri(uri)
        conn.execute(
            "DO $$ BEGIN WHILE EXISTS (SELECT FROM pg_replication_slots WHERE active) LOOP"
            " PERFORM pg_sleep(0.02); END LOOP; END $$"
        )
        conn.execute(f"SELECT pg_drop_replication_slot('{SLOT}')")


@asynccontextmanager
async def streaming(source: str, publication: str = "everything") -> AsyncIterator[ReplicationConnection]:
    replication = await ReplicationConnection.open(source)
    try:
        await replication.start(SLOT, Lsn(0), publication)
        yield replication
    finally:
        await replication.close()


async def messages(replication: ReplicationConnection, commits: int) -> list[bytes]:
    """Whole messages, until so many transactions have ended."""
    found: list[bytes] = []
    async with asyncio.timeout(60):
        missing = 0
        while sum(message[0] == COMMIT for message in found) < commits or missing:
            items, _ = replication.drain()
            if not items:
                await replication.wait_readable(5)
            for item in items:
                if isinstance(item, Fragment):
                    assert bool(item.length) == (missing == 0)
                    found[len(found) - bool(missing) :] = [
                        (found[-1] if missing else b"") + bytes(item.data),
                    ]
                    missing = (missing or item.length) - len(item.data)
                elif isinstance(item, bytes):
                    assert not missing
                    found.append(item)
    return found


async def test_short_and_long_messages_arrive_complete(source: str, way: str) -> None:
    sizes = [0, 1, 1000, LONG - 30, LONG - 1, LONG, LONG + 1, 1 << 20, (1 << 20) + 7, 5 << 20]
    async with streaming(source) as replication:
        expected = LibpqWalStream if way == "libpq" else RawWalStream
        assert type(replication._stream) is expected
        with psycopg.connect(source, autocommit=True) as conn:
            for number, size in enumerate(sizes):
                conn.execute("INSERT INTO t VALUES (%s, repeat(chr(65 + %s), %s))", [number, number, size])
            conn.execute("INSERT INTO t SELECT i, i::text FROM generate_series(100, 20000) i")
        found = await messages(replication, len(sizes) + 1)
    inserts = [message for message in found if message[0] == ord("I")]
    assert len(inserts) == len(sizes) + 19901
    for number, (size, message) in enumerate(zip(sizes, inserts, strict=False)):
        assert message.endswith(b"t" + size.to_bytes(4, "big") + bytes([65 + number]) * size)
    for number, message in enumerate(inserts[len(sizes) :], start=100):
        assert message.endswith(str(number).encode())


async def test_a_refused_start_says_why(source: str) -> None:
    replication = await ReplicationConnection.open(source)
    try:
        with pytest.raises(PgmigError, match="no_such_slot"):
            await replication.start("no_such_slot", Lsn(0), "everything")
    finally:
        await replication.close()


async def test_an_error_in_the_stream_comes_with_its_message(source: str) -> None:
    """pgoutput looks for the publication when the first change comes."""
    async with streaming(source, "no_such_publication") as replication:
        with psycopg.connect(source, autocommit=True) as conn:
            conn.execute("INSERT INTO t VALUES (1, 'v')")
        with pytest.raises(PgmigError, match="no_such_publication"):
            await messages(replication, 1)


async def test_a_walsender_that_ends_is_a_transient_error(source: str) -> None:
    async with streaming(source) as replication:
        with psycopg.connect(source, autocommit=True) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s",
                [SLOT],
            )
        with pytest.raises(PgmigError) as caught:
            await messages(replication, 1)
        assert caught.value.kind in {ErrorKind.TRANSIENT, ErrorKind.UNREACHABLE}


async def test_a_stream_that_was_closed_is_an_error(source: str) -> None:
    async with streaming(source) as replication:
        pass
    with pytest.raises(PgmigError):
        replication.drain()
    with pytest.raises(PgmigError):
        replication.send_status(Lsn(0), Lsn(0))
