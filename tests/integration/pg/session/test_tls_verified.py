"""Every kind of connection, and pg_dump, insist on the server that the connection string names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from services.shared.model import ErrorKind, Lsn, MigrationId, PgmigError
from services.shared.pg.apply.session import ApplySession
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.copy.part import PartCopier
from services.shared.pg.preflight.checks import check_migration
from services.shared.pg.replication.connection import ReplicationConnection, SnapshotKeeper
from services.shared.pg.schema.dump import dump_schema
from services.shared.pg.schema.dump_tools import DumpTools, speaks_tls
from services.shared.pg.session.connection import connection
from services.shared.pg.session.uri import requires_tls
from tests.support.servers.installs import PostgresInstall, installs, newest
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.tls import plain_uri, turn_on_tls, verified_uri

PIPELINE = MigrationId("m1").forward
Kind = Callable[[str, "Place"], Awaitable[None]]


class Place:
    """The server's own database by its right name, its programs, and a folder."""

    def __init__(self, server: PostgresServer, right: str, folder: Path) -> None:
        self.server = server
        self.right = right
        self.folder = folder


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """The newest that was built with TLS. It takes plain connections too."""
    for install in reversed(installs()):
        with PostgresServer(install, fsync=False) as server:
            if turn_on_tls(server):
                yield server
                return
    pytest.skip("no PostgreSQL here was built with TLS")


@pytest.fixture
def place(server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("PGMIG_ALLOWED_PATHS", str(tmp_path))
    with server.fresh_database("tls") as uri:
        yield Place(server, verified_uri(uri, tmp_path), tmp_path)


async def session(uri: str, _: Place) -> None:
    async with connection(uri, "source") as conn:
        assert conn.pgconn.ssl_in_use


async def walsender(uri: str, _: Place) -> None:
    await (await ReplicationConnection.open(uri)).close()


async def snapshot(uri: str, _: Place) -> None:
    await (await SnapshotKeeper.adopt(uri, None)).close()


async def copier_of_source(uri: str, place: Place) -> None:
    await copier(uri, place.right)


async def copier_of_destination(uri: str, place: Place) -> None:
    await copier(place.right, uri)


async def copier(source: str, destination: str) -> None:
    one = PartCopier(source, destination, PIPELINE)
    try:
        await one._connections()
    finally:
        await one.close()


async def applier(uri: str, place: Place) -> None:
    async with connection(place.right, "destination") as conn:
        await ensure_bookkeeping(conn)
    await (await ApplySession.open(uri, PIPELINE, Lsn(0))).close()


async def pg_dump(uri: str, place: Place) -> None:
    await dump_schema(DumpTools(place.server.bin_dir, 0), uri, None, place.folder / "schema.dump")


KINDS = (session, walsender, snapshot, copier_of_source, copier_of_destination, applier, pg_dump)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_verify_full_connects_to_the_named_server_alone(kind: Kind, place: Place) -> None:
    await kind(place.right, place)
    wrong = place.right.replace("127.0.0.1", "localhost")
    with pytest.raises(PgmigError) as caught:
        await kind(wrong, place)
    assert caught.value.kind is ErrorKind.UNREACHABLE
    assert "certificate" in caught.value.message


async def test_pg_dump_without_tls_is_recognized(server: PostgresServer, tmp_path: Path) -> None:
    assert await speaks_tls(server.bin_dir / "pg_dump")
    silent = tmp_path / "pg_dump"
    silent.write_text("#!/bin/sh\nexit 1\n")
    silent.chmod(0o755)
    assert not await speaks_tls(silent)
    assert not await speaks_tls(tmp_path / "gone")


@pytest.fixture
async def without_tls(monkeypatch: pytest.MonkeyPatch) -> PostgresInstall:
    """Programs that were built without TLS are all there are."""
    install = newest()
    if await speaks_tls(install.bin_dir / "pg_dump"):
        pytest.skip("every pg_dump here has TLS")
    monkeypatch.setenv("PGMIG_PG_BINDIR", str(install.bin_dir))
    return install


async def test_a_source_that_is_reached_with_tls_is_not_dumped_without(
    place: Place, dest_db: str, without_tls: PostgresInstall
) -> None:
    """sslmode=prefer, the default: such a pg_dump would connect without TLS and say nothing."""
    plain = place.right.partition("?")[0]
    for uri in (plain, f"{plain}?sslmode=require", place.right):
        with pytest.raises(PgmigError) as caught:
            await check_migration(PIPELINE.migration, uri, dest_db, follow=False)
        assert caught.value.kind is ErrorKind.TOOL_MISSING
        assert str(without_tls.bin_dir) in caught.value.message
        assert "TLS" in caught.value.message
        assert "sslmode=disable" in caught.value.hint
    found = await check_migration(PIPELINE.migration, plain_uri(plain), dest_db, follow=False)
    assert not requires_tls(found.source)


async def test_tls_that_was_found_is_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded parameters have every later connection insist on it."""
    monkeypatch.setenv("PGMIG_PG_BINDIR", str(place.server.bin_dir))
    plain = place.right.partition("?")[0]
    with place.server.fresh_database("dest") as dest:
        found = await check_migration(PIPELINE.migration, plain, plain_uri(dest), follow=False)
    assert requires_tls(found.source)
    assert await speaks_tls(found.tools.pg_dump)
    assert not requires_tls(found.destination)
