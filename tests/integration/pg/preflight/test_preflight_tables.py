"""Tables and large objects that pgmig cannot read, and those whose changes it cannot replicate."""

from __future__ import annotations

from typing import LiteralString

import psycopg
import pytest

from services.shared.model import ErrorKind, LargeObjects, MigrationOptions, Selection
from services.shared.pg.preflight.checks import check_migration
from tests.support.preflight import ID, as_role, refusal, run_sql, traces
from tests.support.servers.postgres import PostgresServer


async def test_unreadable_tables_are_listed(
    source_server: PostgresServer, source_db: str, dest_db: str, role: str
) -> None:
    run_sql(source_db, "CREATE TABLE hidden (id int PRIMARY KEY)")
    error = await refusal(as_role(source_server, source_db, role), dest_db, follow=False)
    assert error.kind is ErrorKind.PERMISSION
    assert "public.hidden" in error.message
    assert ("hidden",) not in traces(dest_db)


@pytest.mark.parametrize(
    "case",
    [
        (("CREATE SEQUENCE s",), "public.s", Selection(exclude_tables=("s",))),
        (("CREATE TABLE t (id serial)", "GRANT SELECT ON t TO plain"), "public.t_id_seq", None),
        (
            (
                "CREATE TABLE t (id int) PARTITION BY LIST (id)",
                "CREATE TABLE leaf PARTITION OF t DEFAULT",
                "GRANT SELECT ON leaf TO plain",
            ),
            "public.t",
            Selection(exclude_tables=("t",)),
        ),
        (
            ("CREATE SCHEMA app", "CREATE TABLE app.t (id int)", "GRANT SELECT ON app.t TO plain"),
            "app.t",
            Selection(exclude_schemas=("app",)),
        ),
    ],
    ids=["sequence", "sequence of a table", "partitioned table", "schema"],
)
async def test_all_that_is_read_must_be_readable(
    case: tuple[tuple[LiteralString, ...], str, Selection | None],
    source_server: PostgresServer,
    source_db: str,
    dest_db: str,
    role: str,
) -> None:
    made, named, readable = case
    run_sql(source_db, "CREATE TABLE seen (id int PRIMARY KEY)", "GRANT SELECT ON seen TO plain", *made)
    reader = as_role(source_server, source_db, role)
    try:
        error = await refusal(reader, dest_db, follow=False)
        assert error.kind is ErrorKind.PERMISSION
        assert error.message == f"tables or sequences of the source may not be read: {named}"
        if readable is not None:
            options = MigrationOptions(selection=readable, no_acl=True)
            await check_migration(ID, reader, dest_db, follow=False, options=options)
        if "seq" in named:  # its value is not read
            options = MigrationOptions(schema_only=True, no_acl=True)
            await check_migration(ID, reader, dest_db, follow=False, options=options)
    finally:
        run_sql(source_db, "DROP OWNED BY plain")


async def test_temporary_tables_are_a_warning(source_db: str, dest_db: str) -> None:
    with psycopg.connect(source_db, autocommit=True) as session:
        session.execute("CREATE TEMPORARY TABLE mine (id int)")
        found = await check_migration(ID, source_db, dest_db, follow=False)
    assert found.warnings == ("temporary tables are not copied: mine",)


async def test_rows_hidden_by_policies_are_refused(
    source_server: PostgresServer, source_db: str, dest_db: str, role: str
) -> None:
    run_sql(
        source_db,
        "CREATE TABLE secret (id int PRIMARY KEY)",
        "ALTER TABLE secret ENABLE ROW LEVEL SECURITY",
        "GRANT SELECT ON secret TO plain",
    )
    error = await refusal(as_role(source_server, source_db, role), dest_db, follow=False)
    run_sql(source_db, "DROP TABLE secret")
    assert "row-level security" in error.message


async def test_table_without_replica_identity_is_listed(source_db: str, dest_db: str) -> None:
    run_sql(
        source_db,
        "CREATE TABLE keyless (a int)",
        "CREATE TABLE full_identity (a int)",
        "ALTER TABLE full_identity REPLICA IDENTITY FULL",
        "CREATE TABLE keyed (a int PRIMARY KEY)",
        "CREATE UNLOGGED TABLE unlogged (a int)",
    )
    error = await refusal(source_db, dest_db)
    assert error.kind is ErrorKind.NO_REPLICA_IDENTITY
    assert error.message.endswith("public.keyless")
    assert "--no-key-tables" in error.hint
    assert (await check_migration(ID, source_db, dest_db, follow=False)).warnings == ()
    run_sql(source_db, "ALTER TABLE keyless REPLICA IDENTITY FULL")
    warnings = (await check_migration(ID, source_db, dest_db, follow=True)).warnings
    assert warnings == ("unlogged tables are copied once, their later changes are not: public.unlogged",)


async def test_large_objects_are_a_warning_and_must_be_readable(
    source_server: PostgresServer, source_db: str, dest_db: str, role: str
) -> None:
    run_sql(source_db, "SELECT lo_create(7), lo_create(8)")

    async def told(follow: bool, choice: LargeObjects) -> str:
        found = await check_migration(
            ID, source_db, dest_db, follow=follow, options=MigrationOptions(large_objects=choice)
        )
        return " ".join(found.warnings)

    assert await told(False, LargeObjects.COPY) == ""
    assert "2 large objects" in await told(True, LargeObjects.COPY)
    assert "copied once" in await told(True, LargeObjects.COPY_ONCE)
    assert "are not copied" in await told(False, LargeObjects.SKIP)
    run_sql(source_db, "GRANT SELECT ON LARGE OBJECT 7 TO plain")
    error = await refusal(as_role(source_server, source_db, role), dest_db, follow=False)
    assert error.kind is ErrorKind.PERMISSION
    assert "may not read 1 of the source's 2 large objects" in error.message
    run_sql(source_db, "REVOKE ALL ON LARGE OBJECT 7 FROM plain")
    run_sql(dest_db, "SELECT lo_create(9)")
    assert "large object 9" in (await refusal(source_db, dest_db)).message
