"""A state file that is not the newest word on a migration: the record in the store counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.shared.bus.connection import connect_bus
from services.shared.bus.store import StateStore, delete_stream
from services.shared.model import STATE_BUCKET, ErrorKind, MigrationOptions, PgmigError, Phase
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services

FOLLOW = MigrationOptions(follow=True)
FAR = 1_000_000


def advanced(text: str) -> str:
    """A state file whose revision is far ahead of any that the store has."""
    content = json.loads(text)
    content["record"]["revision"] += FAR
    return json.dumps(content)


async def test_file_of_an_earlier_migration_of_the_same_id_is_not_continued(
    source: str, dest_db: str, dest_server: PostgresServer, nats_server: NatsServer, tmp_path: Path
) -> None:
    """A coordinator on another host cleaned up and began anew; this host still has the old file."""
    with (
        dest_server.fresh_database("second") as second,
        Services(nats_server, tmp_path, workers=()) as services,
    ):
        path = services.state_dir / "m" / "state.json"
        async with services.session() as session:
            await session.start("m", source, second, FOLLOW)
            stale = advanced(path.read_text())
            await session.cleanup("m", force=True)
            await session.start("m", source, dest_db, FOLLOW)
            before = await session.get("m")
        services.kill9("coordinator")
        path.write_text(stale)
        services.start("coordinator")
        async with services.session() as session:
            view = await session.get("m")
        assert view.destination.dbname == before.destination.dbname
        assert view.created_at == before.created_at
        assert f"{path} belongs to an earlier migration m" in services.log("coordinator")


async def test_file_of_a_coordinator_that_was_replaced_does_not_undo_what_the_next_one_did(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """One that was cut off from the store counted on in its file; another aborted the migration."""
    with Services(nats_server, tmp_path, workers=()) as services:
        path = services.state_dir / "m" / "state.json"
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
        stale = advanced(path.read_text())
        services.restart("coordinator")
        async with services.session() as session:
            assert (await session.resume("m", source, dest_db)).phase.running
            assert (await session.abort("m")).phase is Phase.ABORTED
        services.kill9("coordinator")
        path.write_text(stale)
        services.start("coordinator")
        async with services.session() as session:
            assert (await session.get("m")).phase is Phase.ABORTED


async def test_migration_that_was_cleaned_up_is_not_brought_back_by_a_state_file(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """The coordinator that cleaned up ran on another host. This one was replaced before and has its file."""
    with Services(nats_server, tmp_path, workers=()) as services:
        path = services.state_dir / "m" / "state.json"
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            stale = advanced(path.read_text())
            await session.cleanup("m", force=True)
        services.kill9("coordinator")
        path.parent.mkdir(exist_ok=True)
        path.write_text(stale)
        services.start("coordinator")
        async with services.session() as session:
            with pytest.raises(PgmigError) as caught:
                await session.get("m")
            assert caught.value.kind is ErrorKind.NOT_FOUND
            assert not path.exists()
            await session.start("m", source, dest_db, FOLLOW)  # the id can be used again
        services.restart("coordinator")
        async with services.session() as session:
            assert (await session.get("m")).phase is not Phase.ABORTED
            await session.cleanup("m", force=True)


async def test_store_of_a_moment_between_two_migrations_of_an_id_does_not_remove_the_second_one(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """The store was restored from a backup that was made after the first one had been cleaned up."""
    with Services(nats_server, tmp_path, workers=()) as services:
        path = services.state_dir / "m" / "state.json"
        client = await connect_bus(nats_server.url, "test")
        try:
            async with services.session() as session:
                await session.start("m", source, dest_db, FOLLOW)
                first = path.read_text()
                await session.cleanup("m", force=True)
                mark = (await StateStore(client).removed())["m"]
                await session.start("m", source, dest_db, FOLLOW)
                second = await session.get("m")
            services.kill9("coordinator")
            await StateStore(client).delete("m", mark)
            services.start("coordinator")
            async with services.session() as session:
                assert (await session.get("m")).created_at == second.created_at
                await session.cleanup("m", force=True)
            services.kill9("coordinator")
            path.parent.mkdir(exist_ok=True)
            path.write_text(first)  # of a migration before the one that the mark is of
            services.start("coordinator")
            async with services.session() as session:
                assert await session.list_all() == ()
        finally:
            await client.close()


async def test_state_file_counts_when_the_store_is_gone(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """Another migration has made the store anew, which knows nothing of this one."""
    with Services(nats_server, tmp_path, workers=()) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
        services.kill9("coordinator")
        client = await connect_bus(nats_server.url, "test")
        try:
            assert await delete_stream(client, f"KV_{STATE_BUCKET}")
            store = StateStore(client)
            await store.save("other", b"")
            await store.delete("other")
        finally:
            await client.close()
        services.start("coordinator")
        async with services.session() as session:
            assert (await session.get("m")).migration_id == "m"
            await session.cleanup("m", force=True)
