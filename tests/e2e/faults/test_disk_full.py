"""A disk that is full: the operator is told which and where, and with room it goes on by itself."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from services.shared.model import Phase
from tests.e2e.conftest import ROWS
from tests.e2e.faults.test_kill_in_copy import one_part_held_up
from tests.support.data.schema import seed
from tests.support.data.workload import Writer
from tests.support.migrations.cli import Cli
from tests.support.migrations.live import Live, application, eventually
from tests.support.migrations.stack import Stack
from tests.support.servers.disk import CannotMountError, SaidToBeFull, SmallDisk
from tests.support.servers.installs import newest
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("heavy")]

MIGRATION = "full"
SIZE = 64 << 20
MANY_BYTES = (
    "INSERT INTO shop.orders (account_id, note)"
    " SELECT min(id), repeat('x', 1000) FROM shop.accounts, generate_series(1, 4000) n GROUP BY n"
)
SAID = "the server's disk is full"


@contextmanager
def small_disk(path: Path | None = None) -> Iterator[SmallDisk]:
    disk = SmallDisk(SIZE, path)
    try:
        disk.__enter__()
    except CannotMountError as exc:
        pytest.skip(f"{exc}; test_a_server_that_says_so holds the rule up")
    try:
        yield disk
    finally:
        disk.__exit__(None, None, None)


@pytest.fixture
def disk(dest_server: PostgresServer) -> Iterator[SmallDisk]:
    with small_disk() as disk:
        yield disk


@pytest.fixture
def dest_on_it(disk: SmallDisk, dest_server: PostgresServer) -> Iterator[str]:
    """A database all of whose files are on the small disk; the WAL is not."""
    name = sql.Identifier(f"small_{secrets.token_hex(4)}")
    dest_server.execute(sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(name, sql.Literal(str(disk.path))))
    try:
        with dest_server.fresh_database("dest") as uri:
            database = sql.Identifier(uri.rpartition("/")[2])
            dest_server.execute(sql.SQL("ALTER DATABASE {} SET TABLESPACE {}").format(database, name))
            yield uri
    finally:
        dest_server.execute(sql.SQL("DROP TABLESPACE {}").format(name))


@pytest.fixture
def stack(nats_server: NatsServer, tmp_path: Path) -> Iterator[Stack]:
    """Without copiers, so that the copy waits at its beginning."""
    with Stack(nats_server, tmp_path, workers=("decoder", "applier")) as stack:
        yield stack


def write_much(source: str) -> None:
    """The writer may change the key of the account meanwhile; then again with another one."""
    while True:
        with suppress(psycopg.errors.ForeignKeyViolation), psycopg.connect(source) as conn:
            conn.execute(MANY_BYTES)
            return


async def test_the_copy_and_the_changes_wait_for_room_on_the_destination(
    shop: str, dest_on_it: str, disk: SmallDisk, stack: Stack, writer: Writer
) -> None:
    async with stack.session() as session:
        live = Live(session, MIGRATION, shop, dest_on_it)
        await live.start()
        await live.until_event("no copier is attached")
        disk.fill()
        stack.start("copier-1")
        await live.until_event(f'{SAID} on the destination: could not extend file "pg_tblspc/')
        status = Cli.on(shop, dest_on_it, stack.state_dir, PGMIG_COORDINATOR=stack.address).run("status")
        assert "copier retries: copying " in status.stdout
        assert "make room" in status.stdout
        disk.make_room()
        await live.until_phase(Phase.STREAMING)
        disk.fill()
        write_much(shop)
        await live.until_event(f"applier retries: applying changes to the destination: {SAID}")
        disk.make_room()
        writer.wait_for_commits(20)
        await live.compare_in_step(writer)


async def test_index_builds_wait_for_room_on_the_destination(
    shop: str, dest_on_it: str, disk: SmallDisk, stack: Stack, writer: Writer
) -> None:
    write_much(shop)
    async with stack.session() as session:
        live = Live(session, MIGRATION, shop, dest_on_it)
        await live.start()
        await live.until_phase(Phase.COPY)
        with psycopg.connect(dest_on_it) as blocker, one_part_held_up(dest_on_it) as gate:
            stack.start("copier-1")
            await gate.waiting()
            # Behind the copier's lock, and before whoever wants to build an index then.
            locking = asyncio.create_task(asyncio.to_thread(blocker.execute, LOCK))
            await asyncio.to_thread(eventually, lambda: waits_for_lock(dest_on_it), "waiting for the copier")
            gate.open()
            await locking
            disk.fill()
            blocker.rollback()
            # Copies of other tables may be told of too.
            await live.until(
                lambda view: any("post-data" in event.text and SAID in event.text for event in view.events)
            )
            disk.make_room()
        await live.finish(writer)


LOCK: LiteralString = "LOCK TABLE shop.orders IN ROW EXCLUSIVE MODE"


def waits_for_lock(uri: str) -> bool:
    query = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = %s"
    with psycopg.connect(uri) as conn:
        return conn.execute(query, [LOCK]).fetchone() is not None


async def test_changes_wait_for_room_on_the_source(dest_db: str, stack: Stack) -> None:
    """A transaction too large for the walsender's memory is spilled to the source's disk; here all are."""
    spilling = {"debug_logical_replication_streaming": "immediate"}  # from 16 on
    with PostgresServer(newest(), fsync=False, settings=spilling) as server:
        shop = server.create_database("shop")
        seed(shop, ROWS)
        with small_disk(server.root / "data" / "pg_replslot") as disk, application(shop) as writer:
            async with stack.session() as session:
                live = Live(session, MIGRATION, shop, dest_db)
                await live.start()
                await live.until_event("no copier is attached")
                disk.fill()
                write_much(shop)
                await live.until_event(f"streaming changes from the source: {SAID}")  # whichever file it is
                stack.start("copier-1")
                await live.until(lambda view: view.phase in {Phase.CATCHUP, Phase.STREAMING})
                disk.make_room()
                await live.finish(writer)


async def test_a_server_that_says_so(shop: str, dest_db: str, stack: Stack, writer: Writer) -> None:
    """Where nothing can be mounted: the server's error alone."""
    async with stack.session() as session:
        live = Live(session, MIGRATION, shop, dest_db)
        await live.start()
        await live.until_event("no copier is attached")
        with SaidToBeFull(dest_db, "shop.orders") as disk:
            disk.attach()
            disk.fill()
            stack.start("copier-1")
            await live.until_event(f"copying shop.orders: {SAID} on the destination: could not extend")
            disk.make_room()
            await live.until_phase(Phase.STREAMING)
            disk.fill()
            write_much(shop)
            await live.until_event(f"applier retries: applying changes to the destination: {SAID}")
            disk.make_room()
            await live.drain()
            disk.detach()
        writer.wait_for_commits(20)
        await live.compare_in_step(writer)
