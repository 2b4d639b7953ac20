"""Bad input gives one clear error each, before anything is created on either database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from services.shared.model import (
    ErrorKind,
    LargeObjects,
    MigrationId,
    MigrationOptions,
    PgmigError,
    Selection,
    TableId,
)
from services.shared.pg.catalog.selected import choose
from services.shared.pg.preflight.checks import Preflight, check_migration
from services.shared.pg.session.connection import connection
from tests.support.servers.door import session
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.process import free_port

ID = MigrationId.parse("pre")


def run_sql(uri: str, *statements: LiteralString | sql.Composed) -> None:
    with psycopg.connect(uri, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)


def traces(uri: str) -> list[tuple[object, ...]]:
    """Everything that a migration could leave on a server."""
    with session(uri) as conn:
        return [
            *conn.execute("SELECT slot_name FROM pg_replication_slots"),
            *conn.execute("SELECT pubname FROM pg_publication"),
            *conn.execute("SELECT roname FROM pg_replication_origin"),
            *conn.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'"),
            *conn.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"),
            *conn.execute("SELECT setconfig FROM pg_db_role_setting"),
        ]


async def refusal(source: str, destination: str, *, follow: bool = True) -> PgmigError:
    with pytest.raises(PgmigError) as caught:
        await check_migration(ID, source, destination, follow=follow)
    assert caught.value.hint or caught.value.kind is ErrorKind.TRANSIENT
    return caught.value


@pytest.fixture
def role(source_server: PostgresServer) -> Iterator[str]:
    name = "plain"
    source_server.execute("DROP ROLE IF EXISTS plain")
    source_server.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    yield name
    source_server.execute("DROP ROLE IF EXISTS plain")


def as_role(server: PostgresServer, uri: str, name: str) -> str:
    return server.uri(urlsplit(uri).path.lstrip("/"), name, name)


async def test_good_input_passes_and_changes_nothing(source_db: str, dest_db: str) -> None:
    run_sql(source_db, "CREATE TABLE t (id int PRIMARY KEY)")
    before = traces(source_db), traces(dest_db)
    found = await check_migration(ID, source_db, dest_db, follow=True)
    assert isinstance(found, Preflight)
    assert found.warnings == ()
    assert found.tools.major >= found.source.server_version_num // 10000
    assert (traces(source_db), traces(dest_db)) == before


async def test_unreachable_host_is_named(source_db: str, dest_db: str) -> None:
    nowhere = f"postgresql://u:secret@127.0.0.1:{free_port()}/db"
    error = await refusal(nowhere, dest_db)
    assert error.kind is ErrorKind.UNREACHABLE
    assert "source 127.0.0.1" in error.message
    assert "secret" not in error.message
    assert (await refusal(source_db, nowhere)).kind is ErrorKind.UNREACHABLE


async def test_wrong_password_is_an_authentication_error(
    source_server: PostgresServer, dest_db: str, source_db: str
) -> None:
    wrong = source_server.uri(urlsplit(source_db).path.lstrip("/"), password="not-the-one")
    error = await refusal(wrong, dest_db)
    assert error.kind is ErrorKind.AUTHENTICATION
    assert "not-the-one" not in str(error)


async def test_missing_database_is_not_found(source_server: PostgresServer, dest_db: str) -> None:
    assert (await refusal(source_server.uri("no_such"), dest_db)).kind is ErrorKind.AUTHENTICATION


async def test_wal_level_below_logical_is_refused_only_to_follow(dest_db: str) -> None:
    with PostgresServer(settings={"wal_level": "replica"}, fsync=False) as server:
        source = server.create_database("db")
        error = await refusal(source, dest_db)
        assert error.kind is ErrorKind.SOURCE_NOT_READY
        assert "wal_level" in error.message
        await check_migration(ID, source, dest_db, follow=False)


async def test_no_free_slot_and_no_free_sender_are_refused(dest_db: str) -> None:
    with PostgresServer(settings={"max_replication_slots": "1"}, fsync=False) as server:
        source = server.create_database("db")
        run_sql(source, "SELECT pg_create_physical_replication_slot('taken')")
        assert "replication slots" in (await refusal(source, dest_db)).message
    with PostgresServer(settings={"max_wal_senders": "0"}, fsync=False) as server:
        assert "WAL senders" in (await refusal(server.create_database("db"), dest_db)).message


async def test_missing_replication_right_is_refused(
    source_server: PostgresServer, source_db: str, dest_db: str, role: str
) -> None:
    error = await refusal(as_role(source_server, source_db, role), dest_db)
    assert error.kind is ErrorKind.PERMISSION
    assert "REPLICATION" in error.message


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


async def test_temporary_tables_are_told_of(source_db: str, dest_db: str) -> None:
    with psycopg.connect(source_db, autocommit=True) as session:
        session.execute("CREATE TEMPORARY TABLE mine (id int)")
        found = await check_migration(ID, source_db, dest_db, follow=False)
    assert found.warnings == ("temporary tables are not copied: mine",)


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


async def test_slot_there_or_active_is_refused(source_db: str, dest_db: str) -> None:
    run_sql(source_db, "SELECT pg_create_logical_replication_slot('pgmig_pre', 'pgoutput')")
    assert (await refusal(source_db, dest_db)).kind is ErrorKind.SLOT_EXISTS
    run_sql(source_db, "CREATE PUBLICATION other")
    with closing(psycopg.connect(source_db, autocommit=True, replication="database")) as walsender:
        walsender.pgconn.exec_(
            b"START_REPLICATION SLOT pgmig_pre LOGICAL 0/0 (proto_version '1', publication_names 'other')"
        )
        assert (await refusal(source_db, dest_db)).kind is ErrorKind.SLOT_ACTIVE


async def test_publication_or_origin_there_is_refused(source_db: str, dest_db: str) -> None:
    run_sql(source_db, "CREATE PUBLICATION pgmig_pre")
    error = await refusal(source_db, dest_db)
    assert error.kind is ErrorKind.ALREADY_EXISTS
    assert "publication" in error.message
    run_sql(source_db, "DROP PUBLICATION pgmig_pre")
    run_sql(dest_db, "SELECT pg_replication_origin_create('pgmig_pre')")
    error = await refusal(source_db, dest_db)
    run_sql(dest_db, "SELECT pg_replication_origin_drop('pgmig_pre')")
    assert error.kind is ErrorKind.ALREADY_EXISTS
    assert "origin" in error.message


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


async def test_destination_must_be_empty_but_for_extensions(source_db: str, dest_db: str) -> None:
    run_sql(dest_db, "CREATE EXTENSION pg_trgm")
    await check_migration(ID, source_db, dest_db, follow=True)
    for made, named in [
        (sql.SQL("CREATE TABLE t (id int)"), "table public.t"),
        (sql.SQL("CREATE VIEW v AS SELECT 1 AS one"), "view public.v"),
        (sql.SQL("CREATE SEQUENCE s"), "sequence public.s"),
        (sql.SQL("CREATE TYPE e AS ENUM ('a')"), "type public.e"),
        (sql.SQL("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"), "function public.f"),
        (sql.SQL("CREATE SCHEMA app"), "schema app"),
    ]:
        run_sql(dest_db, sql.Composed([made]))
        error = await refusal(source_db, dest_db)
        assert error.kind is ErrorKind.DESTINATION_NOT_READY
        assert named in error.message
        run_sql(dest_db, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public", "DROP SCHEMA IF EXISTS app")


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE CAST (text AS inet) WITH INOUT", "cast (pg_catalog.text AS pg_catalog.inet)"),
        ("CREATE FOREIGN DATA WRAPPER nowhere", "foreign-data wrapper nowhere"),
        ("CREATE CONVERSION c FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8", "conversion public.c"),
        ("CREATE TEXT SEARCH TEMPLATE t (LEXIZE = dsimple_lexize)", "text search template public.t"),
        ("CREATE OPERATOR FAMILY f USING btree", "operator family public.f"),
    ],
)
async def test_kinds_that_are_easily_overlooked_make_a_destination_not_empty(
    made: LiteralString, named: str, source_db: str, dest_db: str
) -> None:
    run_sql(dest_db, made)
    assert named in (await refusal(source_db, dest_db)).message


async def test_a_destination_that_is_not_empty_is_told_with_every_kind(source_db: str, dest_db: str) -> None:
    run_sql(
        dest_db,
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TYPE e AS ENUM ('a')",
        "CREATE VIEW v AS SELECT 1 AS one",
        "CREATE MATERIALIZED VIEW m AS SELECT 1 AS one",
        "CREATE SEQUENCE s",
        "CREATE SCHEMA app",
        "CREATE PROCEDURE app.p() LANGUAGE sql AS 'SELECT 1'",
        'CREATE COLLATION app."C" FROM "C"',
    )
    for number in range(30):
        run_sql(dest_db, sql.SQL("CREATE TABLE {} ()").format(sql.Identifier(f"t{number:02}")))
    message = (await refusal(source_db, dest_db)).message
    for told in (
        "function public.f()",
        "type public.e",
        "view public.v",
        "materialized view public.m",
        "sequence public.s",
        "schema app",
        "procedure app.p()",
        'collation app."C"',
        "table public.t00",
        " and 18 more",
    ):
        assert told in message


async def test_destination_role_must_be_able_to_replicate(
    dest_server: PostgresServer, source_db: str, dest_db: str
) -> None:
    run_sql(dest_db, "DROP ROLE IF EXISTS weak", "CREATE ROLE weak LOGIN PASSWORD 'weak'")
    name = urlsplit(dest_db).path.lstrip("/")
    weak = dest_server.uri(name, "weak", "weak")
    try:
        assert "create schemas" in (await refusal(source_db, weak)).message
        run_sql(dest_db, sql.SQL("GRANT CREATE ON DATABASE {} TO weak").format(sql.Identifier(name)))
        assert "session_replication_role" in (await refusal(source_db, weak)).message
        run_sql(dest_db, "GRANT SET ON PARAMETER session_replication_role TO weak")
        passed = await check_migration(ID, source_db, weak, follow=True)
        assert any("pg_replication_origin_create" in warning for warning in passed.warnings)
        assert not any("GRANT TEMPORARY" in warning for warning in passed.warnings)
        run_sql(dest_db, sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
        passed = await check_migration(ID, source_db, weak, follow=True)
        assert any("GRANT TEMPORARY" in warning for warning in passed.warnings)
    finally:
        run_sql(
            dest_db,
            "REVOKE SET ON PARAMETER session_replication_role FROM weak",
            sql.SQL("REVOKE ALL ON DATABASE {} FROM weak").format(sql.Identifier(name)),
            "DROP ROLE weak",
        )


async def test_older_destination_and_same_database_are_refused(source_db: str, dest_db: str) -> None:
    error = await refusal(dest_db, source_db)
    assert error.kind is ErrorKind.DESTINATION_NOT_READY
    assert "older" in error.message
    assert (await refusal(source_db, source_db)).kind is ErrorKind.INVALID_ARGUMENT


async def test_encoding_must_be_equal(dest_server: PostgresServer, source_db: str) -> None:
    dest_server.execute(
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    try:
        error = await refusal(source_db, dest_server.uri("latin"))
    finally:
        dest_server.drop_database("latin")
    assert "LATIN1" in error.message


async def test_large_objects_are_told_of_and_must_be_readable(
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


async def test_pg_dump_older_than_the_source_is_named(
    source_db: str, dest_db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 13.4'\n")
    (tmp_path / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PGMIG_PG_BINDIR", str(tmp_path))
    error = await refusal(source_db, dest_db)
    assert error.kind is ErrorKind.TOOL_MISSING
    assert "13 in" in error.message
