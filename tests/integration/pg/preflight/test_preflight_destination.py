"""A destination that is not empty is refused, whatever kind of object it contains."""

from __future__ import annotations

from typing import LiteralString

import pytest
from psycopg import sql

from services.shared.model import ErrorKind
from services.shared.pg.preflight.checks import check_migration
from tests.support.preflight import ID, refusal, run_sql


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


async def test_the_error_for_a_destination_that_is_not_empty_lists_every_kind_of_object(
    source_db: str, dest_db: str
) -> None:
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
