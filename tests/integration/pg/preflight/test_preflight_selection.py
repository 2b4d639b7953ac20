"""A selection of tables: its patterns are checked, and only what it selects must meet the conditions."""

from __future__ import annotations

import pytest

from services.shared.model import ErrorKind, MigrationOptions, PgmigError, Selection, TableId
from services.shared.pg.catalog.selected import choose
from services.shared.pg.preflight.checks import check_migration
from services.shared.pg.session.connection import connection
from tests.support.preflight import ID, as_role, run_sql
from tests.support.servers.postgres import PostgresServer


async def test_only_tables_that_are_chosen_must_be_readable(
    source_server: PostgresServer, source_db: str, dest_db: str, role: str
) -> None:
    run_sql(
        source_db,
        "CREATE TABLE hidden (id int PRIMARY KEY)",
        "CREATE TABLE seen (id int PRIMARY KEY)",
        "GRANT SELECT ON seen TO plain",
    )
    reader = as_role(source_server, source_db, role)
    try:
        for selection in (Selection(exclude_tables=("hidden",)), Selection(include_tables=("seen",))):
            options = MigrationOptions(selection=selection, no_acl=True)
            await check_migration(ID, reader, dest_db, follow=False, options=options)
        with pytest.raises(PgmigError, match=r"public\.hidden"):
            options = MigrationOptions(selection=Selection(exclude_table_data=("hidden",)))
            await check_migration(ID, reader, dest_db, follow=False, options=options)
    finally:
        run_sql(source_db, "DROP TABLE seen")


async def test_only_tables_that_are_chosen_need_an_identity(source_db: str, dest_db: str) -> None:
    run_sql(source_db, "CREATE TABLE keyless (a int)", "CREATE TABLE keyed (a int PRIMARY KEY)")
    for selection in (Selection(exclude_tables=("keyless",)), Selection(exclude_table_data=("keyless",))):
        await check_migration(
            ID, source_db, dest_db, follow=True, options=MigrationOptions(selection=selection)
        )


async def test_patterns_that_match_nothing_are_named(source_db: str, dest_db: str) -> None:
    run_sql(
        source_db,
        'CREATE TABLE "Mixed" (id int PRIMARY KEY)',
        "CREATE SCHEMA app",
        "CREATE TABLE app.t (id int PRIMARY KEY)",
    )
    selection = Selection(exclude_tables=("mixed", '"Mixed"', "t", "app.t"), exclude_schemas=("ap",))
    with pytest.raises(PgmigError) as caught:
        await check_migration(
            ID, source_db, dest_db, follow=False, options=MigrationOptions(selection=selection)
        )
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
    assert caught.value.message.endswith(
        "--exclude-table 'mixed', --exclude-table 't', --exclude-schema 'ap'"
    )


async def test_a_name_without_a_schema_is_the_one_that_the_search_path_shows(
    source_db: str, dest_db: str
) -> None:
    run_sql(
        source_db,
        "CREATE SCHEMA app",
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE TABLE app.t (id int PRIMARY KEY)",
    )
    options = MigrationOptions(selection=Selection(include_tables=("t",)))
    for path, seen in (("app,public", "app"), ("public,app", "public")):
        source = f"{source_db}?options=-csearch_path%3D{path}"
        found = await check_migration(ID, source, dest_db, follow=False, options=options)
        assert found.options.selection.search_path == tuple(path.split(","))
        async with connection(source, "source") as conn:
            chosen = await choose(conn, found.options)
        assert chosen.relations == {TableId(seen, "t")}


async def test_a_pattern_that_is_no_regular_expression_is_named(source_db: str, dest_db: str) -> None:
    with pytest.raises(PgmigError, match=r"'\(t'") as caught:
        await check_migration(
            ID,
            source_db,
            dest_db,
            follow=False,
            options=MigrationOptions(selection=Selection(exclude_tables=("(t",))),
        )
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
