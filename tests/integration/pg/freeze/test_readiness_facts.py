"""What a role that is no superuser finds on the source before a switchover."""

from __future__ import annotations

import psycopg
from psycopg import conninfo

from services.shared.model import MigrationOptions, Selection, TableId
from services.shared.pg.readiness.source import Slow, read_slow, read_source
from services.shared.pg.selection.rules import Chosen
from services.shared.pg.session.connection import connection

A = TableId("public", "a")


async def test_sessions_of_superusers_may_not_be_ended_and_hide_their_transactions(
    source: str, owner: str
) -> None:
    with psycopg.connect(source) as conn:
        conn.execute("SELECT pg_sleep(3.1)")  # sessions that have just begun may be about to end
        async with connection(owner, "source") as ours:
            _, facts = await read_source(ours, "no_slot", Slow())
        assert f"process {conn.info.backend_pid} (" in facts.not_endable
        assert "role postgres" in facts.not_endable
        assert facts.hidden == 1
    async with connection(owner, "source") as ours:
        _, facts = await read_source(ours, "no_slot", Slow())
    assert (facts.not_endable, facts.hidden) == ("", 0)


async def test_transactions_are_told_apart_by_the_locks_that_a_switchover_waits_for(source: str) -> None:
    everything, only_b = Slow(), Slow(Chosen(everything=False, filled=frozenset({TableId("public", "b")})))
    with psycopg.connect(source) as reader, psycopg.connect(source) as writer:
        reader.execute("SELECT FROM a")
        writer.execute("INSERT INTO a VALUES (1)")
        reader.execute("SELECT pg_sleep(1.1)")
        async with connection(source, "source") as ours:
            _, facts = await read_source(ours, "no_slot", everything)
            _, narrow = await read_source(ours, "no_slot", only_b)
        locked = {one.session.split()[1]: one.locked for one in facts.transactions}
        assert locked == {str(reader.info.backend_pid): (), str(writer.info.backend_pid): (A,)}
        assert all(one.locked == () for one in narrow.transactions)
        assert all("idle in transaction" in one.session for one in facts.transactions)
        assert all(1 <= one.seconds <= 60 for one in facts.transactions)


async def test_sequences_report_the_share_that_is_used_in_their_direction(source: str) -> None:
    with psycopg.connect(source) as conn:
        conn.execute("CREATE SEQUENCE up AS int; SELECT setval('up', 2000000000)")
        conn.execute("CREATE SEQUENCE down INCREMENT -1 MINVALUE -100 MAXVALUE -1")
        conn.execute("SELECT setval('down', -91)")
        conn.execute("CREATE SEQUENCE cycles MAXVALUE 10 CYCLE; SELECT setval('cycles', 10)")
    options = MigrationOptions(selection=Selection(include_tables=("public.a",)))
    async with connection(source, "source") as ours:
        slow = await read_slow(ours, MigrationOptions())
        selected = await read_slow(ours, options)
    assert {one.sequence.name: round(one.used, 2) for one in slow.sequences} == {"up": 0.93, "down": 0.91}
    assert selected.sequences == ()


async def test_subscription_of_another_owner_is_named(source: str, owner: str) -> None:
    with psycopg.connect(source, autocommit=True) as conn:
        where = conninfo.make_conninfo("", host="nowhere.invalid", dbname="x")
        conn.execute(f"CREATE SUBSCRIPTION sub CONNECTION '{where}' PUBLICATION p WITH (connect = false)")
        conn.execute("ALTER SUBSCRIPTION sub ENABLE")
        try:
            async with connection(owner, "source") as ours:
                _, facts = await read_source(ours, "no_slot", Slow())
            assert facts.subscriptions == "sub"
        finally:
            conn.execute("ALTER SUBSCRIPTION sub DISABLE; ALTER SUBSCRIPTION sub SET (slot_name = NONE)")
            conn.execute("DROP SUBSCRIPTION sub")
