"""What pgmig-cli refuses: one clear error, a documented exit code, both databases as before."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from services.shared.model import ExitCode
from tests.support.migrations.cli import Cli
from tests.support.migrations.stack import COORDINATOR, Stack
from tests.support.migrations.verdict import inventory
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.process import free_port

pytestmark = pytest.mark.xdist_group("refusals")

SECRET = "wr0ngpassw0rd"


@dataclass(frozen=True, slots=True)
class Door:
    """Two databases, and a coordinator that is asked to migrate the one to the other."""

    coordinator: Stack
    source: str
    dest: str

    def refuses(self, code: ExitCode, *words: str, source: str = "", dest: str = "") -> None:
        """`clone --follow` ends with `code` and an error that holds `words`, and nothing is changed.

        source, dest: URIs to be given instead of the databases' own.
        """
        before = self._inventories()
        cli = Cli.on(
            source or self.source,
            dest or self.dest,
            self.coordinator.state_dir,
            PGMIG_COORDINATOR=self.coordinator.address,
        )
        check_refusal(cli.run("clone", "--follow", "--id", "refused"), code, *words)
        assert self._inventories() == before
        assert not list(self.coordinator.state_dir.glob("*/state.json"))
        assert SECRET not in self.coordinator.log(COORDINATOR)

    def _inventories(self) -> list[set[str]]:
        return [inventory(uri) for uri in (self.source, self.dest)]


def check_refusal(done: subprocess.CompletedProcess[str], code: ExitCode, *words: str) -> None:
    """One error with these words, a hint, no more; and no password."""
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"], done.stderr
    for word in words:
        assert word in lines[0]
    assert SECRET not in done.stderr
    assert done.stdout == ""
    assert done.returncode == code


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Without workers: no migration is to begin."""
    with NatsServer() as nats, Stack(nats, tmp_path_factory.mktemp("refusals"), workers=()) as stack:
        yield stack


@pytest.fixture
def door(coordinator: Stack, shop: str, dest_db: str) -> Door:
    return Door(coordinator, shop, dest_db)


def login(uri: str, user: str) -> str:
    """`uri` with another user, and SECRET as password."""
    return f"postgresql://{user}:{SECRET}@{uri.rpartition('@')[2]}"


@pytest.mark.parametrize("side", ["source", "destination"])
def test_unreachable_host(side: str, door: Door) -> None:
    nowhere = f"postgresql://me:{SECRET}@127.0.0.1:{free_port()}/nothing"
    source, dest = (nowhere, "") if side == "source" else ("", nowhere)
    words = f"cannot connect to {side} 127.0.0.1", "refused"
    door.refuses(ExitCode.UNREACHABLE, *words, source=source, dest=dest)


@pytest.mark.parametrize("side", ["source", "destination"])
def test_wrong_password(side: str, door: Door) -> None:
    source = login(door.source, "postgres") if side == "source" else ""
    dest = login(door.dest, "postgres") if side == "destination" else ""
    words = f"{side} 127.0.0.1", "password authentication failed"
    door.refuses(ExitCode.UNREACHABLE, *words, source=source, dest=dest)


def test_database_that_does_not_exist(door: Door) -> None:
    source = f"{door.source}_not"
    door.refuses(ExitCode.UNREACHABLE, "source 127.0.0.1", "does not exist", source=source)


def test_uri_that_is_none(door: Door) -> None:
    door.refuses(ExitCode.USAGE, "connection string", source=f"postgresql://me:{SECRET}@[::/nothing")


def test_wal_level_replica(coordinator: Stack, source_server: PostgresServer, dest_db: str) -> None:
    with PostgresServer(source_server.install, settings={"wal_level": "replica"}, fsync=False) as server:
        door = Door(coordinator, server.create_database("plain"), dest_db)
        door.refuses(ExitCode.REFUSED, "wal_level", "replica")


def test_role_without_replication(door: Door, source_server: PostgresServer) -> None:
    with limited_role(source_server):
        door.refuses(ExitCode.REFUSED, "limited", "REPLICATION", source=login(door.source, "limited"))


@contextmanager
def limited_role(server: PostgresServer) -> Iterator[None]:
    """Role `limited` with password SECRET, for a block."""
    with server.connect() as conn:
        conn.execute(sql.SQL("CREATE ROLE limited LOGIN PASSWORD {}").format(sql.Literal(SECRET)))
        try:
            yield
        finally:
            conn.execute("DROP ROLE limited")


def test_slot_that_is_there_already(door: Door) -> None:
    with psycopg.connect(door.source, autocommit=True) as conn:
        conn.execute("SELECT pg_create_logical_replication_slot('pgmig_refused', 'pgoutput')")
    door.refuses(ExitCode.REFUSED, "slot pgmig_refused", "already")


def test_slot_that_is_active(door: Door) -> None:
    with psycopg.connect(door.source, autocommit=True) as conn:
        # A temporary one is its session's for as long as that lives.
        conn.execute("SELECT pg_create_logical_replication_slot('pgmig_refused', 'pgoutput', true)")
        door.refuses(ExitCode.REFUSED, "slot pgmig_refused", f"in use by process {conn.info.backend_pid}")


def test_destination_that_is_not_empty(door: Door) -> None:
    with psycopg.connect(door.dest) as conn:
        conn.execute("CREATE TABLE occupied ()")
    door.refuses(ExitCode.REFUSED, "not empty")


def test_table_without_replica_identity(door: Door) -> None:
    with psycopg.connect(door.source) as conn:
        conn.execute("ALTER TABLE shop.audit_log REPLICA IDENTITY DEFAULT")
    door.refuses(ExitCode.REFUSED, "no replica identity", "shop.audit_log")


def test_same_database_twice(door: Door) -> None:
    door.refuses(ExitCode.USAGE, "same database", dest=door.source)


def test_pg_dump_older_than_the_source(door: Door, tmp_path: Path) -> None:
    """With an embedded stack, which goes with the refusal."""
    old = tmp_path / "old"
    old.mkdir()
    program = old / "pg_dump"
    program.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n")
    program.chmod(0o755)
    state = tmp_path / "state"
    before = inventory(door.source), inventory(door.dest)
    done = Cli.on(door.source, door.dest, state, PGMIG_PG_BINDIR=str(old)).run("clone", "--follow")
    check_refusal(done, ExitCode.REFUSED, "pg_dump", f"9 in {old}")
    assert (inventory(door.source), inventory(door.dest)) == before
    assert not (state / "default" / "state.json").exists()
    assert not (state / "default" / "nats").exists()
