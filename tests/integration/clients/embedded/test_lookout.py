"""What the slot keeps on the source is seen while nothing reads it, and so is its loss."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services.shared.model import MigrationOptions, Phase
from tests.support.migrations.cli import Cli
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until, until_phase

MIB = 1 << 20


@pytest.fixture
def source(source_server: PostgresServer) -> Iterator[str]:
    """A database of a server that invalidates a slot which keeps more than a few MB."""
    settings = {"max_slot_wal_keep_size": "4MB"}
    with PostgresServer(source_server.install, settings=settings, fsync=False) as server:
        uri = server.create_database("source")
        with psycopg.connect(uri) as conn:
            conn.execute("CREATE TABLE item (id int PRIMARY KEY, note text)")
        yield uri


def write(uri: str, first: int) -> None:
    """Some 3 MB of WAL."""
    with psycopg.connect(uri) as conn:
        conn.execute(
            "INSERT INTO item SELECT n, repeat(md5(n::text), 25) FROM generate_series(%s::int, %s) n",
            [first, first + 2999],
        )


async def test_lag_wal_and_the_loss_of_the_slot_are_reported_while_paused(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    with Services(nats_server, tmp_path) as services:
        cli = Cli.on("", "", services.state_dir, PGMIG_COORDINATOR=services.address)

        async def shown(command: str) -> str:
            done = await asyncio.to_thread(cli.run, command)
            assert done.returncode == 0, done.stderr
            return done.stdout

        async with services.session() as session:
            await session.start("m", source, dest_db, MigrationOptions(follow=True))
            await until_phase(session, "m", Phase.STREAMING)
            await session.pause("m")
            write(source, 1)
            view = await until(
                session,
                "m",
                lambda v: v.positions.lag_bytes > 2 * MIB and v.positions.retained_bytes > 2 * MIB,
            )
            assert view.phase is Phase.PAUSED
            assert view.positions.lag_seconds > 0
            status = await shown("status")
            assert "WAL kept" in status
            assert "MiB on the source" in status
            assert "pgmig-cli resume" in status
            assert "MiB on the source" in await shown("list")

            with psycopg.connect(source, autocommit=True) as conn:
                for number in range(3):
                    write(source, 10_000 * (number + 1))
                    conn.execute("SELECT pg_switch_wal()")
                conn.execute("CHECKPOINT")
            view = await until(session, "m", lambda v: v.positions.slot_lost)
            assert view.positions.wal_status == "lost"
            status = await shown("status")
            assert "the slot is LOST" in status
            assert "pgmig-cli cleanup --id m, then clone again" in status
            assert "pgmig-cli resume" not in status
            view = await until(session, "m", lambda v: bool(v.events))
            assert any("slot pgmig_m was invalidated" in event.text for event in view.events)
            done = await session.cleanup("m", source, dest_db)
            assert done.left == ()
