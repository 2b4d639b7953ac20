"""The old source after a switchover: closed until `unfreeze`, and watched for late writes until `cleanup`."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from services.shared.model import ErrorKind, Lsn, PgmigError, Phase
from services.shared.pg.replication.connection import ReplicationConnection
from services.shared.pg.replication.late_writes import late_writes
from services.shared.pg.session.connection import connection
from tests.support.servers.door import reopen
from tests.support.servers.proxy import proxied
from tests.support.services.services import Services, until, until_phase
from tests.support.switchover.old_source import FOLLOW, closed, insert, place, switched_over


async def test_old_source_is_closed_until_it_is_unfrozen_and_late_writes_are_an_alarm(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await switched_over(session, source, dest_db)
        assert closed(source)
        await session.unfreeze("m", read_only=True)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            insert(source, 1)
        insert(source, 1, "-c default_transaction_read_only=off")  # which the default does not prevent
        view = await until(session, "m", lambda v: any("1 in public.item" in e.text for e in v.events))
        assert [e.level for e in view.events if "1 in public.item" in e.text] == ["error"]
        await session.unfreeze("m")
        insert(source, 2)
        await until(session, "m", lambda v: any("2 in public.item" in e.text for e in v.events))
        with pytest.raises(PgmigError) as caught:
            await session.unfreeze("m")
        assert caught.value.kind is ErrorKind.WRONG_PHASE
        with psycopg.connect(dest_db) as conn:
            assert conn.execute("SELECT count(*) FROM item").fetchone() == (0,)
        with pytest.raises(PgmigError) as caught:
            await session.cleanup("m")
        assert caught.value.kind is ErrorKind.LATE_WRITES
        assert "2 in public.item" in caught.value.message
        removed = await session.cleanup("m", force=True)
        assert any("replication slot" in line for line in removed.removed)


async def test_a_slot_that_is_in_use_does_not_count_as_one_without_late_writes(source: str) -> None:
    """Two looks at once, say the coordinator's and cleanup's: one of them has to look again."""
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("CREATE PUBLICATION p FOR TABLE item")
        conn.execute("SELECT pg_create_logical_replication_slot('in_use', 'pgoutput')")
    insert(source, 1)
    async with connection(source, "source") as conn:
        replication = await ReplicationConnection.open(source)
        try:
            await replication.start("in_use", Lsn(0), "p")
            assert await late_writes(conn, "in_use", ["p"], Lsn(0)) is None
        finally:
            await replication.close()
        while (found := await late_writes(conn, "in_use", ["p"], Lsn(0))) is None:
            await asyncio.sleep(0.02)  # the server tells nobody when a slot is released
        assert found == (("public.item", 1),)
        assert await late_writes(conn, "gone", ["p"], Lsn(0)) == ()


@pytest.mark.parametrize("since", [110000, 990000])
@pytest.mark.parametrize("amid", ["before the decision", "after it"])
async def test_late_writes_are_found_after_more_changes_than_one_check_decodes(
    source: str, amid: str, since: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the decision: a large transaction that the slot has not been told of, though it is applied.
    After it: transactions that change nothing. since: the version from which slots can be advanced."""
    monkeypatch.setattr("services.shared.pg.replication.late_writes.LOOKED_AT_MOST", 1000)
    monkeypatch.setattr("services.shared.pg.replication.late_writes._ADVANCE_SINCE", since)
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("CREATE PUBLICATION p FOR TABLE item")
        conn.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        messages = "SELECT pg_logical_emit_message(%s, 'noise', n::text) FROM generate_series(1, 5000) n"
        if amid == "before the decision":
            conn.execute("INSERT INTO item SELECT generate_series(1, 5000)")
        decided = conn.execute("SELECT pg_logical_emit_message(true, 'pgmig', 'm')::text").fetchone()
        assert decided is not None
        if amid == "after it":
            conn.execute(messages, [True])
            conn.execute(messages, [False])
        async with connection(source, "source") as looking:
            after = Lsn.parse(decided[0])
            assert await late_writes(looking, "s", ["p"], after) == ()
            conn.execute("DELETE FROM item; INSERT INTO item VALUES (6000)")
            conn.execute("INSERT INTO item VALUES (6001)")
            gone = 5001 if amid == "before the decision" else 2
            for _ in range(2):
                assert await late_writes(looking, "s", ["p"], after) == (("public.item", gone),)
        conn.execute("SELECT pg_drop_replication_slot('s')")


async def test_cleanup_reaches_into_a_closed_source_and_leaves_it_closed(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await switched_over(session, source, dest_db)
        removed = await session.cleanup("m")
        assert any("publication" in line for line in removed.removed)
        assert closed(source)
    with psycopg.connect(reopen(source)) as conn:
        assert conn.execute("SELECT FROM pg_replication_slots").fetchall() == []
        assert conn.execute("SELECT FROM pg_publication").fetchall() == []


async def test_unfreeze_is_for_a_source_that_is_frozen(services: Services, source: str, dest_db: str) -> None:
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with pytest.raises(PgmigError) as caught:
            await session.unfreeze("m")
        assert caught.value.kind is ErrorKind.WRONG_PHASE


async def test_unfreeze_takes_the_connection_string_that_a_restarted_coordinator_lacks(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await switched_over(session, source, dest_db)
        services.restart("coordinator")
        with pytest.raises(PgmigError) as caught:
            await session.unfreeze("m")
        assert caught.value.kind is ErrorKind.CREDENTIALS_NEEDED
        assert "--source-uri" in caught.value.hint
        assert closed(source)
        await session.unfreeze("m", source)
        insert(source, 1)


async def test_closed_source_at_another_address_is_found_through_another_database(
    services: Services, source: str, dest_db: str
) -> None:
    async with proxied(place(source)) as proxy, services.session() as session:
        await switched_over(session, source.replace(place(source), proxy.address), dest_db)
        await proxy.close()
        other = source.rpartition("/")[0] + "/postgres"
        for wrong, named in ((other, "postgres"), (f"{other}_gone", "postgres_gone")):
            with pytest.raises(PgmigError) as caught:
                await session.unfreeze("m", wrong)
            assert f"{place(source)}/{named}" in caught.value.message
            assert proxy.address in caught.value.message
        assert closed(source)
        view = await session.unfreeze("m", source, read_only=True)
        assert f"{view.source.host}:{view.source.port}" == place(source)
        await session.unfreeze("m")
        insert(source, 1)
