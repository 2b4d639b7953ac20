"""Everything that is in the way of a pipeline back is named at once, with its remedy. Nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import pytest

from services.shared.model import MigrationId, MigrationOptions, NoKeyTables, TableId
from services.shared.pg.reverse.check import ReverseCheck, check_reverse
from tests.integration.pg.reverse.conftest import REVERSE, execute, role_without_rights
from tests.support.preflight import traces
from tests.support.servers.postgres import PostgresServer


def names(check: ReverseCheck, *, blocking: bool, parts: Sequence[str]) -> None:
    """There is one such finding with each of the parts, and no other, and each has a remedy."""
    found = [one for one in check.findings if one.blocking is blocking]
    for part in parts:
        assert any(part in one.problem for one in found), (part, found)
    assert len(found) == len(parts), [one.problem for one in found]
    assert all(one.remedy for one in found)


async def test_nothing_is_in_the_way_of_equal_databases(old: str, new: str) -> None:
    before = traces(old), traces(new)
    check = await check_reverse(new, old, REVERSE)
    assert check.findings == ()
    assert set(check.published.whole) == {TableId("public", name) for name in ("t", 'odd % "table', "part")}
    assert check.routes == ()
    assert (traces(old), traces(new)) == before


async def test_what_the_publishers_role_lacks(new: str, old: str, dest_server: PostgresServer) -> None:
    with role_without_rights(dest_server, new) as plain:
        check = await check_reverse(plain, old, REVERSE)
    lacks = (
        "lacks the REPLICATION right",
        "may not create a publication",
        "does not own database",
        "does not own tables that are to be published",
        "destination 127.0.0.1",  # and therefore cannot open a replication connection
    )
    names(check, blocking=True, parts=lacks)
    names(check, blocking=False, parts=("may not end other roles' sessions",))


async def test_what_the_publishers_server_lacks(old: str) -> None:
    settings = {"wal_level": "replica", "max_wal_senders": "0", "max_replication_slots": "1"}
    with PostgresServer(settings=settings, fsync=False) as server:
        server.execute("SELECT pg_create_physical_replication_slot('other')")
        execute(server.uri("template1"), "SELECT 1")
        check = await check_reverse(server.create_database("app"), old, REVERSE)
    lacks = ("wal_level of the destination is replica", "all 1 replication slots", "all 0 WAL senders")
    names(check, blocking=True, parts=(*lacks, "destination 127.0.0.1"))


async def test_what_the_subscribers_role_lacks(new: str, old: str, source_server: PostgresServer) -> None:
    for uri in (new, old):
        execute(uri, "CREATE SEQUENCE numbers")
    with role_without_rights(source_server, old) as plain:
        name = urlsplit(plain).username
        execute(old, f"GRANT ALL ON t TO {name}", "ALTER TABLE t ENABLE ROW LEVEL SECURITY")
        check = await check_reverse(new, plain, REVERSE)
        both = await check_reverse(new, plain, REVERSE, local_only=True)
    lacks = (
        "may not set session_replication_role",
        "may not create schema pgmig",
        "may not write to tables of the source: public.odd",
        "row-level security of the source applies to our role: public.t",
        "may not set sequences of the source",
    )
    origins = "may not use replication origins"
    names(check, blocking=True, parts=lacks)
    names(check, blocking=False, parts=(origins,))
    names(both, blocking=True, parts=(*lacks, origins))


async def test_tables_that_differ(new: str, old: str) -> None:
    same = (
        "CREATE TABLE keyless (a int)",
        "CREATE UNLOGGED TABLE quick (a int PRIMARY KEY)",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    )
    execute(
        new,
        *same,
        "CREATE TABLE lone (a int PRIMARY KEY)",
        "ALTER TABLE t ADD missing int, ADD doubled int GENERATED ALWAYS AS (id * 2) STORED, ADD plain int,"
        " ADD typed bigint",
        "SELECT lo_create(0)",
    )
    execute(
        old,
        *same,
        "ALTER TABLE t ADD doubled int, ADD plain int GENERATED ALWAYS AS (id * 2) STORED,"
        " ADD needed int NOT NULL, ADD typed int",
        "CREATE TRIGGER fires AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "ALTER TABLE t ENABLE ALWAYS TRIGGER fires",
    )
    full = MigrationOptions(no_key_tables=NoKeyTables.IDENTITY_FULL)
    check = await check_reverse(new, old, REVERSE, options=full, incomplete=[TableId("public", "keyless")])
    blocking = (
        "do not exist on the source: public.lone",
        "columns of the destination do not exist on the source: public.t.missing",
        "columns are generated on the destination only, so their values are not sent: public.t.doubled",
        "columns are generated on the source only: public.t.plain",
        "columns of the source need a value and do not exist on the destination: public.t.needed",
        "tables were not replicated completely, so both sides may have different rows: public.keyless",
    )
    warnings = (
        "another type on the source: public.t.typed",
        "triggers of the source fire for replicated rows: public.t",
        "unlogged tables of the destination are not replicated: public.quick",
        "get REPLICA IDENTITY FULL until the pipeline is removed: public.keyless",
        "large objects of the destination",
    )
    names(check, blocking=True, parts=blocking)
    names(check, blocking=False, parts=warnings)


@pytest.mark.parametrize("choice", [NoKeyTables.REFUSE, NoKeyTables.INSERT_ONLY, NoKeyTables.COPY_ONLY])
async def test_a_table_whose_changes_could_not_be_replicated_completely(
    choice: NoKeyTables, new: str, old: str
) -> None:
    for uri in (new, old):
        execute(uri, "CREATE TABLE keyless (a int)")
    check = await check_reverse(new, old, REVERSE, options=MigrationOptions(no_key_tables=choice))
    names(check, blocking=True, parts=("no replica identity, so UPDATE and DELETE cannot be replicated",))
    assert "REPLICA IDENTITY FULL" in check.findings[0].remedy


async def test_databases_with_different_encodings(new: str, source_server: PostgresServer) -> None:
    source_server.execute(
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    try:
        execute(new, 'DROP TABLE t, part, "odd % ""table"')
        check = await check_reverse(new, source_server.uri("latin"), REVERSE)
    finally:
        source_server.drop_database("latin")
    names(check, blocking=True, parts=("is encoded in UTF8, the source in LATIN1",))


async def test_both_sides_are_one_database(new: str) -> None:
    check = await check_reverse(new, new, REVERSE)
    names(check, blocking=True, parts=("both connection strings lead to the same database",))


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_others_that_replicate_into_a_side(
    side: str, new: str, old: str, source_server: PostgresServer, dest_server: PostgresServer
) -> None:
    """What they write carries an origin, and would not be sent back."""
    uri, server = (old, source_server) if side == "source" else (new, dest_server)
    other = MigrationId("other").forward
    execute(
        uri,
        "CREATE SUBSCRIPTION theirs CONNECTION 'dbname=x' PUBLICATION p"
        " WITH (connect = false, slot_name = NONE)",
        "CREATE SCHEMA pgmig",
        "CREATE TABLE pgmig.applier (pipeline text PRIMARY KEY, epoch text NOT NULL)",
        f"INSERT INTO pgmig.applier VALUES ('{other}', 'x'), ('{REVERSE.opposite}', 'x')",
    )
    names_here = (other.origin, REVERSE.opposite.origin, "elsewhere", "unused", "pgmig_in_another_database")
    try:
        for name in names_here:
            execute(uri, f"SELECT pg_replication_origin_create('{name}')")
            if name != "unused":
                execute(uri, f"SELECT pg_replication_origin_advance('{name}', '0/2A')")
        check = await check_reverse(new, old, REVERSE)
        names(
            check,
            blocking=True,
            parts=(
                f"the {side} has subscriptions, whose changes would not be replicated: theirs",
                f"replication origins: {other.origin}",
                "replication origins: elsewhere",
            ),
        )
        with role_without_rights(server, uri) as plain:
            uris = (new, plain) if side == "source" else (plain, old)
            execute(uri, "GRANT SELECT ON pgmig.applier TO PUBLIC", "GRANT USAGE ON SCHEMA pgmig TO PUBLIC")
            refused = [one.problem for one in (await check_reverse(*uris, REVERSE)).blocking]
        assert any("subscriptions" in one and "theirs" in one for one in refused), refused
        assert any("may not read whether they are used: elsewhere, unused" in one for one in refused), refused
    finally:
        execute(uri, "DROP SUBSCRIPTION theirs")
        for name in names_here:
            execute(uri, f"SELECT pg_replication_origin_drop('{name}')")


async def test_subscriptions_of_another_database_do_not_matter(
    new: str, old: str, dest_server: PostgresServer
) -> None:
    with dest_server.fresh_database("third") as third:
        execute(
            third,
            "CREATE SUBSCRIPTION theirs CONNECTION 'dbname=x' PUBLICATION p"
            " WITH (connect = false, slot_name = NONE)",
            "SELECT pg_replication_origin_advance('pg_' || oid, '0/2A') FROM pg_subscription",
        )
        try:
            assert (await check_reverse(new, old, REVERSE)).blocking == ()
        finally:
            execute(third, "DROP SUBSCRIPTION theirs")


async def test_partitions_that_differ_are_routed_to_their_root(new: str, old: str) -> None:
    execute(old, "DROP TABLE part_high", "CREATE TABLE part_rest PARTITION OF part DEFAULT")
    check = await check_reverse(new, old, REVERSE)
    root = TableId("public", "part")
    assert {(route.leaf.name, route.root) for route in check.routes} == {
        ("part_low", root),
        ("part_high", root),
    }
    names(check, blocking=False, parts=("partitions tables in another way",))


async def test_progress_of_an_earlier_pipeline(new: str, old: str) -> None:
    execute(
        old,
        f"SELECT pg_replication_origin_create('{REVERSE.origin}')",
        f"SELECT pg_replication_origin_advance('{REVERSE.origin}', '0/2A')",
    )
    check = await check_reverse(new, old, REVERSE)
    names(check, blocking=True, parts=("the source has progress 0/2A of an earlier pipeline back/reverse",))


async def test_the_publisher_of_a_forward_pipeline_is_the_source(
    new: str, old: str, source_server: PostgresServer
) -> None:
    with role_without_rights(source_server, old) as plain:
        check = await check_reverse(plain, new, REVERSE.migration.forward)
    assert all("source" in one.problem or "tables that are" in one.problem for one in check.blocking)
    assert len(check.blocking) == 5
