"""Tables without a usable replica identity: what is followed, and what the source feels of it."""

from __future__ import annotations

import asyncio
import json

import psycopg
import pytest

from clients.session import Session
from services.shared.model import (
    ErrorKind,
    EventLevel,
    IdentityBefore,
    Lsn,
    MigrationOptions,
    MigrationView,
    NoKeyTables,
    PgmigError,
    Phase,
    ReplicaIdentity,
    TableId,
)
from services.shared.pg.catalog.replica_identity import choose_published
from services.shared.pg.replication.publication import ensure_publication
from services.shared.pg.session.connection import connection
from tests.support.pipeline.in_process import rows, run
from tests.support.preflight import traces
from tests.support.services.services import Services, until, until_phase

IDENTITIES = "SELECT relname, relreplident::text FROM pg_class WHERE relname IN ('log', 'mute') ORDER BY 1"
AS_MADE = [("log", "d"), ("mute", "n")]
LOG = "SELECT id, note FROM log ORDER BY 1, 2"


@pytest.fixture
def source(source_db: str) -> str:
    run(
        source_db,
        "CREATE TABLE keyed (id int PRIMARY KEY)",
        "CREATE TABLE log (id int, note text)",
        "CREATE TABLE mute (id int)",
        "ALTER TABLE mute REPLICA IDENTITY NOTHING",
        "INSERT INTO log SELECT n % 3, 'copied' FROM generate_series(1, 9) n",
    )
    return source_db


async def streaming(session: Session, source: str, dest: str, choice: NoKeyTables) -> MigrationView:
    await session.start("m", source, dest, MigrationOptions(follow=True, no_key_tables=choice))
    return await until_phase(session, "m", Phase.STREAMING)


async def flushed(session: Session, source: str) -> None:
    """Everything committed so far is on the destination."""
    written = Lsn.parse(str(rows(source, "SELECT pg_current_wal_lsn()::text")[0][0]))
    await until(session, "m", lambda view: view.positions.flushed_lsn >= written)


def warned(view: MigrationView, text: str) -> bool:
    return any(event.level == EventLevel.WARNING and text in event.text for event in view.events)


async def test_identity_full_follows_everything_and_puts_the_identity_back(
    services: Services, source: str, dest_db: str
) -> None:
    before = traces(source)
    async with services.session() as session:
        view = await streaming(session, source, dest_db, NoKeyTables.IDENTITY_FULL)
        assert warned(view, "REPLICA IDENTITY FULL on the source until cleanup: public.log, public.mute")
        assert rows(source, IDENTITIES) == [("log", "f"), ("mute", "f")]
        assert rows(dest_db, IDENTITIES) == AS_MADE, "the destination is as the source was"
        run(
            source,
            "UPDATE log SET note = 'changed' WHERE ctid = (SELECT min(ctid) FROM log)",
            "DELETE FROM log WHERE id = 2",
            "INSERT INTO log VALUES (7, 'late')",
        )
        await flushed(session, source)
        assert rows(dest_db, LOG) == rows(source, LOG)
        removed = (await session.cleanup("m", force=True)).removed
        assert any("public.log" in line for line in removed)
    assert rows(source, IDENTITIES) == AS_MADE
    assert traces(source) == before


async def test_what_is_altered_is_noted_before_it_is_altered(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        with psycopg.connect(source) as writer:
            writer.execute("INSERT INTO mute VALUES (1)")
            options = MigrationOptions(follow=True, no_key_tables=NoKeyTables.IDENTITY_FULL)
            await session.start("m", source, dest_db, options)
            await until(session, "m", lambda view: warned(view, "retried"))
            services.kill9("coordinator")
            assert rows(source, IDENTITIES) == [("log", "f"), ("mute", "n")], "half of it is done"
            state = json.loads((services.state_dir / "m" / "state.json").read_text())
            assert [one["identity"] for one in state["record"]["pipelines"][0]["altered"]] == ["d", "n"]
            writer.commit()
        await asyncio.to_thread(_again, services)
        await session.resume("m", source, dest_db)
        await until_phase(session, "m", Phase.STREAMING)
        assert rows(source, IDENTITIES) == [("log", "f"), ("mute", "f")]
        await session.abort("m")
        assert rows(source, IDENTITIES) == AS_MADE
        run(source, "ALTER TABLE log REPLICA IDENTITY FULL")
        await session.cleanup("m")
        assert rows(source, IDENTITIES)[0] == ("log", "f"), "not ours any more"


def _again(services: Services) -> None:
    services.start("coordinator")


async def test_insert_only_leaves_update_and_delete_working_and_unreplicated(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        view = await streaming(session, source, dest_db, NoKeyTables.INSERT_ONLY)
        assert warned(view, "UPDATE and DELETE are not replicated (no replica identity): public.log")
        assert rows(source, "SELECT pubname FROM pg_publication ORDER BY 1") == [
            ("pgmig__insert_m",),
            ("pgmig_m",),
        ]
        run(
            source,
            "UPDATE log SET note = 'unfollowed' WHERE id = 0",
            "DELETE FROM log WHERE id = 1",
            "INSERT INTO log VALUES (7, 'late')",
            "INSERT INTO keyed VALUES (1)",
            "UPDATE keyed SET id = 2",
            "INSERT INTO mute VALUES (1), (2)",
            "TRUNCATE mute",
        )
        await flushed(session, source)
        assert rows(dest_db, "SELECT count(*) FROM log WHERE note = 'copied'") == [(9,)]
        assert rows(dest_db, "SELECT id FROM log WHERE note = 'late'") == [(7,)]
        assert rows(dest_db, "SELECT id FROM keyed") == [(2,)]
        assert rows(dest_db, "SELECT count(*) FROM mute") == [(0,)]
        async for _ in session.switchover("m", 20.0):
            pass
        await session.cleanup("m")
    assert rows(source, "SELECT FROM pg_publication") == []


async def test_copy_only_copies_once_and_leaves_the_source_alone(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        view = await streaming(session, source, dest_db, NoKeyTables.COPY_ONLY)
        assert warned(view, "later changes are not replicated (no replica identity): public.log, public.mute")
        published = "SELECT tablename FROM pg_publication_tables ORDER BY 1"
        assert rows(source, published) == [("keyed",)]
        run(
            source,
            "UPDATE log SET note = 'unfollowed' WHERE id = 0",
            "DELETE FROM mute",
            "INSERT INTO log VALUES (7, 'unfollowed')",
            "INSERT INTO keyed VALUES (1)",
        )
        await flushed(session, source)
        assert rows(dest_db, "SELECT DISTINCT note FROM log") == [("copied",)]
        assert rows(dest_db, "SELECT id FROM keyed") == [(1,)]
        async for _ in session.switchover("m", 20.0):
            pass
    assert rows(source, IDENTITIES) == AS_MADE


async def test_a_partition_without_identity_decides_for_its_root_and_heirs_for_themselves(
    source_db: str,
) -> None:
    run(
        source_db,
        "CREATE TABLE root (id int) PARTITION BY RANGE (id)",
        "CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (1) TO (9)",
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE heir () INHERITS (parent)",
    )
    roots = int(str(rows(source_db, "SHOW server_version_num")[0][0])) >= 130000
    carrier = TableId("public", "root" if roots else "leaf")
    heir, parent = TableId("public", "heir"), TableId("public", "parent")
    async with connection(source_db, "source") as conn:
        with pytest.raises(PgmigError) as caught:
            await choose_published(conn, NoKeyTables.REFUSE)
        assert caught.value.kind is ErrorKind.NO_REPLICA_IDENTITY
        assert caught.value.message.endswith("public.heir, public.leaf")
        inserts = await choose_published(conn, NoKeyTables.INSERT_ONLY)
        assert (inserts.whole, inserts.inserts_only) == ((parent,), (heir, carrier))
        copies = await choose_published(conn, NoKeyTables.COPY_ONLY)
        assert (copies.whole, copies.copied_only) == ((parent,), (heir, carrier))
        full = await choose_published(conn, NoKeyTables.IDENTITY_FULL)
        assert full.altered == tuple(
            IdentityBefore(TableId("public", name), ReplicaIdentity.DEFAULT) for name in ("heir", "leaf")
        )
        await ensure_publication(conn, "whole", copies.whole)
    run(source_db, "INSERT INTO heir VALUES (1)", "UPDATE parent SET id = 2")  # both tables' rows


async def test_a_table_that_was_dropped_since_it_was_listed_is_not_published(source_db: str) -> None:
    run(source_db, "CREATE TABLE stays (id int PRIMARY KEY)")
    stays, gone = TableId("public", "stays"), TableId("public", "gone")
    elsewhere = TableId("no_such_schema", "gone")
    async with connection(source_db, "source") as conn:
        await ensure_publication(conn, "p", (gone, elsewhere, stays))
        await ensure_publication(conn, "none", (gone,), inserts_only=True)
    published = "SELECT pubname::text, tablename::text FROM pg_publication_tables"
    assert rows(source_db, published) == [("p", "stays")]


pytestmark = pytest.mark.timeout(120)
