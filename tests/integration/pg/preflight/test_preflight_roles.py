"""Roles that the copied objects reference must exist on the destination."""

from __future__ import annotations

from typing import LiteralString

import pytest

from services.shared.model import ErrorKind, MigrationOptions, PgmigError, Selection
from services.shared.pg.preflight.checks import check_migration
from tests.support.preflight import ID, run_sql
from tests.support.servers.postgres import PostgresServer


async def test_roles_that_the_destination_lacks_are_named_with_the_remedy(
    source_server: PostgresServer, source_db: str, dest_db: str, role: str
) -> None:
    run_sql(
        source_db,
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "GRANT SELECT ON t TO plain",
    )

    async def lacks(*, no_owner: bool = False, no_acl: bool = False) -> str:
        options = MigrationOptions(no_owner=no_owner, no_acl=no_acl)
        with pytest.raises(PgmigError) as caught:
            await check_migration(ID, source_db, dest_db, follow=True, options=options)
        assert caught.value.kind is ErrorKind.DESTINATION_NOT_READY
        assert caught.value.message == "roles of the source are missing on the destination: plain"
        return caught.value.hint

    assert (await lacks()).endswith(": --no-acl")
    await check_migration(ID, source_db, dest_db, follow=True, options=MigrationOptions(no_acl=True))
    run_sql(source_db, "REVOKE ALL ON t FROM plain", "ALTER FUNCTION f() OWNER TO plain")
    assert (await lacks()).endswith(": --no-owner")
    await check_migration(ID, source_db, dest_db, follow=True, options=MigrationOptions(no_owner=True))
    run_sql(source_db, "REVOKE EXECUTE ON FUNCTION f() FROM plain")
    assert (await lacks(no_owner=True)).endswith(": --no-acl"), "the REVOKE names its owner"
    run_sql(
        source_db,
        "DROP FUNCTION f()",
        "ALTER DEFAULT PRIVILEGES FOR ROLE plain GRANT SELECT ON TABLES TO PUBLIC",
    )
    assert (await lacks(no_owner=True)).endswith(": --no-acl")
    run_sql(source_db, "DROP OWNED BY plain", "CREATE POLICY p ON t TO plain USING (true)")
    assert "policies" in await lacks(no_owner=True, no_acl=True)
    run_sql(source_db, "DROP TABLE t")


@pytest.mark.parametrize(
    "named",
    [
        "ALTER TABLE app.left_out OWNER TO plain",
        "ALTER SEQUENCE app.free OWNER TO plain",
        "ALTER SCHEMA other OWNER TO plain",
        "ALTER FUNCTION other.f() OWNER TO plain",
        "ALTER TYPE other.mood OWNER TO plain",
        "GRANT SELECT (id) ON app.left_out TO plain",
        "GRANT USAGE ON SCHEMA other TO plain",
        "CREATE POLICY p ON app.left_out TO plain USING (true)",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA other GRANT SELECT ON TABLES TO plain",
        "CREATE USER MAPPING FOR plain SERVER far",
    ],
)
async def test_only_roles_that_what_is_chosen_names_are_needed(
    named: LiteralString, source_db: str, dest_db: str, role: str
) -> None:
    run_sql(
        source_db,
        "CREATE SCHEMA app",
        "CREATE SCHEMA other",
        "CREATE TABLE app.chosen (id int PRIMARY KEY)",
        "CREATE TABLE app.left_out (id int PRIMARY KEY)",
        "CREATE SEQUENCE app.free",
        "CREATE FUNCTION other.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TYPE other.mood AS ENUM ('ok')",
        "CREATE FOREIGN DATA WRAPPER nowhere",
        "CREATE SERVER far FOREIGN DATA WRAPPER nowhere",
        named,
    )

    async def check(*statements: LiteralString, **selection: tuple[str, ...]) -> None:
        run_sql(source_db, *statements)
        options = MigrationOptions(selection=Selection(**selection))
        await check_migration(ID, source_db, dest_db, follow=False, options=options)

    try:
        with pytest.raises(PgmigError, match="missing on the destination: plain"):
            await check()
        await check(include_tables=("app.chosen",))
        if "far" not in named:  # it lies in no schema
            await check(exclude_tables=("app.left_out", "app.free"), exclude_schemas=("other",))
        with pytest.raises(PgmigError, match="missing on the destination: plain"):
            await check("GRANT SELECT ON app.chosen TO plain", include_tables=("app.chosen",))
    finally:
        run_sql(source_db, "DROP OWNED BY plain CASCADE")
