"""Servers that take TLS alone: everything that connects to them, from pg_dump to the freeze, does so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.shared.model import ExitCode, Phase
from tests.e2e.conftest import ROWS
from tests.support.data.schema import seed
from tests.support.migrations.cli import Cli
from tests.support.migrations.live import application
from tests.support.migrations.verdict import checks, left_on_destination, left_on_source, problems
from tests.support.servers.installs import PostgresInstall, installs
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.tls import insist_on_tls, turn_on_tls, verified_uri

pytestmark = pytest.mark.xdist_group("tls")

STREAMING_S = 60.0


@pytest.fixture(scope="module")
def install() -> PostgresInstall:
    """The newest that was built with TLS: some of those in wheels were not, their pg_dump neither."""
    for install in reversed(installs()):
        with PostgresServer(install, fsync=False) as server:
            if turn_on_tls(server):
                return install
    pytest.skip("no PostgreSQL here was built with TLS")


@pytest.fixture
def pair(install: PostgresInstall, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """URIs of a source with rows and of an empty destination."""
    with ExitStack() as servers:
        uris = []
        for _ in range(2):
            server = servers.enter_context(PostgresServer(install, fsync=False))
            turn_on_tls(server)
            insist_on_tls(server)
            uris.append(verified_uri(server.create_database("app"), tmp_path))
        seed(uris[0], ROWS)
        yield uris[0], uris[1]


def test_a_live_database_is_moved_over_tls_alone(
    pair: tuple[str, str], install: PostgresInstall, tmp_path: Path
) -> None:
    source, dest = pair
    cli = Cli.on(source, dest, tmp_path / "state", PGMIG_PG_BINDIR=str(install.bin_dir))
    cut = ("--split-tables-larger-than", "32kB")
    with (
        application(source) as writer,
        cli.start("clone", "--follow", *cut, log=tmp_path / "clone.log") as clone,
    ):
        clone.until(lambda view: view.phase is Phase.STREAMING, STREAMING_S)
        writer.wait_for_commits(20)
        done = cli.run("switchover")
        assert done.returncode == ExitCode.OK, done.stderr
        report = writer.wait_until_cut_off()
        assert clone.wait() == ExitCode.OK
    assert problems(checks(source, dest, report)) == []
    assert cli.run("cleanup").returncode == ExitCode.OK
    assert left_on_source(source) == []
    assert left_on_destination(dest) == []


def test_a_server_of_another_name_is_not_talked_to(
    pair: tuple[str, str], install: PostgresInstall, tmp_path: Path
) -> None:
    source, dest = pair
    other = dest.replace("127.0.0.1", "localhost")
    cli = Cli.on(source, other, tmp_path / "state", PGMIG_PG_BINDIR=str(install.bin_dir))
    done = cli.run("clone", "--follow")
    assert done.returncode == ExitCode.UNREACHABLE, done.stderr
    assert "cannot connect to destination localhost" in done.stderr
    assert "certificate" in done.stderr
