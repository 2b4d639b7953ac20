"""Connection strings given for a migration that exists: used, or refused with the names of both databases."""

from __future__ import annotations

import signal
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.shared.model import ExitCode, Phase
from tests.support.migrations.cli import Cli
from tests.support.migrations.live import Live
from tests.support.migrations.stack import Stack
from tests.support.migrations.verdict import left_on_destination, left_on_source, present_on_source
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.proxy import proxied

STREAMING_S = 120.0


@pytest.fixture
def other(source_server: PostgresServer, template: str) -> Iterator[str]:
    """Another database, with the tables of the source."""
    with source_server.fresh_database("other", template) as uri:
        yield uri


def place(uri: str) -> str:
    """host:port/dbname."""
    return uri.rpartition("@")[2]


def at(uri: str, address: str) -> str:
    """The same database at another HOST:PORT."""
    parts = urllib.parse.urlsplit(uri)
    return uri.replace(f"{parts.hostname}:{parts.port}", address)


def password_file(path: Path, *uris: str) -> str:
    """libpq's, so that the recorded databases accept a login without anybody's help."""
    parts = [urllib.parse.urlsplit(uri) for uri in uris]
    path.write_text("".join(f"{p.hostname}:{p.port}:*:{p.username}:{p.password}\n" for p in parts))
    path.chmod(0o600)
    return str(path)


def test_another_source_is_refused_and_never_silently_replaced_by_the_recorded_one(
    shop: str, other: str, dest_db: str, tmp_path: Path
) -> None:
    passwords = password_file(tmp_path / "passwords", shop, dest_db)
    cli = Cli.on(shop, dest_db, tmp_path / "state", PGPASSFILE=passwords, PGMIG_WORKER_GRACE_S="0.5")
    elsewhere = Cli.on(other, dest_db, tmp_path / "state", PGPASSFILE=passwords, PGMIG_WORKER_GRACE_S="0.5")
    with cli.start("clone", "--follow", log=tmp_path / "clone.log") as clone:
        clone.until(lambda view: view.phase is Phase.STREAMING, STREAMING_S)
        joined = elsewhere.run("follow")
        assert joined.returncode == ExitCode.USAGE, joined.stderr
        clone.stop(signal.SIGINT)

    followed = elsewhere.run("follow", timeout=60)
    aborted = elsewhere.run("abort", "--yes")
    cleaned = elsewhere.run("cleanup")
    for done in (joined, followed, aborted, cleaned):
        assert done.returncode in {ExitCode.USAGE, ExitCode.CONFLICT}, done.stderr
    for done in (joined, followed, aborted):
        assert place(other) in done.stderr
        assert place(shop) in done.stderr
    for done in (aborted,):
        assert "pgmig-cli cleanup --force --id default" in done.stderr

    forced = elsewhere.run("cleanup", "--force", "--yes")
    assert forced.returncode == ExitCode.LEFT_BEHIND, forced.stderr
    assert "NOT removed" not in forced.stdout
    told = [line for line in forced.stderr.splitlines() if "not removed" in line]
    assert len(told) == 1
    assert "replication slot pgmig_default and publication pgmig_default on the source" in told[0]
    assert place(shop) in told[0]
    assert left_on_destination(dest_db) == []
    assert present_on_source(shop) != []
    assert cli.run("status").returncode == ExitCode.NOT_FOUND


async def test_another_address_of_the_same_database_is_used(shop: str, dest_db: str, stack: Stack) -> None:
    """As after a change of DNS; also while it runs, and by whoever gives the migration up."""
    async with proxied(place(shop).partition("/")[0]) as proxy, stack.session() as session:
        live = Live(session, "moved", at(shop, proxy.address), dest_db)
        await live.start()
        await live.until_phase(Phase.STREAMING)
        await proxy.close()
        view = await session.resume("moved", shop, dest_db)
        assert f"{view.source.host}:{view.source.port}" == place(shop).partition("/")[0]
        await live.until_phase(Phase.STREAMING)
        live.source = shop
        await live.drain()


async def test_cleanup_reaches_the_source_by_another_name_after_an_abort_that_did_not(
    shop: str, dest_db: str, stack: Stack
) -> None:
    async with proxied(place(shop).partition("/")[0]) as proxy, stack.session() as session:
        live = Live(session, "gone", at(shop, proxy.address), dest_db)
        await live.start()
        await live.until_phase(Phase.STREAMING)
        await proxy.close()
        view = await session.abort("gone")
        assert view.phase is Phase.ABORTED
        assert any("replication slot" in piece for piece in view.left), view.left
        done = await session.cleanup("gone", shop, force=True)  # the same database by another name
        assert done.left == ()
        assert left_on_source(shop) == []
        assert left_on_destination(dest_db) == []
