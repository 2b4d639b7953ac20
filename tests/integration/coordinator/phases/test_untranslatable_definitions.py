"""A definition without an equivalent in UTF-8 is refused if it will be read, and only then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from services.shared.model import ErrorKind, MigrationId, MigrationOptions, PgmigError, Phase, Selection
from services.shared.pg.preflight.checks import check_migration
from tests.integration.coordinator.phases.test_encodings import encoded
from tests.integration.coordinator.phases.test_stored_encodings import WIN1252
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until_phase

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def both(source_server: PostgresServer, dest_server: PostgresServer) -> Iterator[tuple[str, str]]:
    with ExitStack() as stack:
        yield (
            stack.enter_context(encoded(source_server, "WIN1252", "encoded_source")),
            stack.enter_context(encoded(dest_server, "WIN1252", "encoded_dest")),
        )


def made(statement: str) -> str:
    """# is the stray bytes, within a string of the statement."""
    return f"DO $do$ BEGIN EXECUTE replace($x${statement}$x$, '#', '~'); END $do$"


async def checked(both: tuple[str, str], options: MigrationOptions | None = None) -> str:
    """The message of the preflight's refusal, or ""."""
    try:
        await check_migration(MigrationId("m"), *both, follow=True, options=options or MigrationOptions())
    except PgmigError as exc:
        assert exc.kind is ErrorKind.SOURCE_NOT_READY, exc
        assert "without an equivalent in UTF-8" in exc.message
        return exc.message
    return ""


T = "CREATE TABLE t (id int PRIMARY KEY, v text)"
REFUSED = {
    "body of an SQL function": (
        "CREATE FUNCTION f() RETURNS text BEGIN ATOMIC SELECT 'b#'::text; END",
        "function public.f()",
    ),
    "setting of a function": (
        "CREATE FUNCTION f() RETURNS int SET a.b = '#' LANGUAGE sql AS 'SELECT 1'",
        "function public.f()",
    ),
    "initial value of an aggregate": (
        "CREATE AGGREGATE f(text) (sfunc = textcat, stype = text, initcond = 'i#')",
        "function public.f(text)",
    ),
    "expression of statistics": (
        "CREATE STATISTICS s ON (v || '#'), id FROM t",
        "statistics object public.s",
    ),
    "option of a foreign-data wrapper": (
        "CREATE FOREIGN DATA WRAPPER w OPTIONS (o '#')",
        "foreign-data wrapper w",
    ),
    "option of a server": (
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (o '#')",
        "server s",
    ),
    "option of a user mapping": (
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
        " CREATE USER MAPPING FOR PUBLIC SERVER s OPTIONS (o '#')",
        "user mapping for public on server s",
    ),
    "option of a foreign table": (
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
        " CREATE FOREIGN TABLE f (v text) SERVER s OPTIONS (o '#')",
        "foreign table public.f",
    ),
    "option of a foreign table's column": (
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
        " CREATE FOREIGN TABLE f (v text OPTIONS (o '#')) SERVER s",
        "column v of foreign table public.f",
    ),
    "partition key": (
        "CREATE TABLE p (v text) PARTITION BY LIST ((v || '#'))",
        "table public.p",
    ),
    "check constraint": ("ALTER TABLE t ADD CONSTRAINT c CHECK (v <> '#')", "constraint c on table public.t"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_texts_that_pg_dump_reads_are_refused(what: str, both: tuple[str, str]) -> None:
    statement, named = REFUSED[what]
    WIN1252.run(both[0], T, made(statement))
    assert f" of {named}: " in await checked(both)


LEFT_OUT = {
    "ALTER TABLE t ALTER v SET DEFAULT '#'": "t",
    "ALTER TABLE t ADD CONSTRAINT c CHECK (v <> '#')": "t",
    "CREATE INDEX ON t ((v || '#'))": "t",
    "CREATE VIEW w AS SELECT v || '#' FROM t": "t",
    "CREATE TABLE p (id int PRIMARY KEY); INSERT INTO p VALUES (1);"
    " ALTER TABLE p ADD w text DEFAULT '#'; ALTER TABLE p ALTER w DROP DEFAULT": "p",
}


@pytest.mark.parametrize("statement", LEFT_OUT)
async def test_relations_that_are_left_out_may_have_any_definition(
    statement: str, both: tuple[str, str]
) -> None:
    WIN1252.run(both[0], T, "CREATE TABLE seen (id int PRIMARY KEY)", made(statement))
    assert await checked(both)
    selections = Selection(include_tables=("seen",)), Selection(exclude_tables=(LEFT_OUT[statement],))
    for selection in selections:
        assert await checked(both, MigrationOptions(selection=selection)) == ""


async def test_comments_of_relations_that_are_left_out_are_read(both: tuple[str, str]) -> None:
    WIN1252.run(both[0], T, "CREATE TABLE seen (id int PRIMARY KEY)", made("COMMENT ON TABLE t IS '#'"))
    options = MigrationOptions(selection=Selection(include_tables=("seen",)))
    assert "label or options of table public.t" in await checked(both, options)


async def test_root_of_a_chosen_partition_is_read(both: tuple[str, str]) -> None:
    WIN1252.run(
        both[0],
        "CREATE TABLE root (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE leaf PARTITION OF root DEFAULT",
        made("ALTER TABLE ONLY root ALTER v SET DEFAULT '#'"),
    )
    assert "column v of table" in await checked(
        both, MigrationOptions(selection=Selection(include_tables=("leaf",)))
    )


async def test_members_of_extensions_and_temporary_tables_may_have_any_definition(
    both: tuple[str, str],
) -> None:
    source = both[0]
    WIN1252.run(
        source,
        "CREATE EXTENSION hstore",
        T,
        made("CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT ''#''::text'"),
        "ALTER EXTENSION hstore ADD FUNCTION f()",
    )
    with psycopg.connect(source, autocommit=True, client_encoding="UTF8") as conn:
        conn.execute(WIN1252.sql(made("CREATE TEMP TABLE gone (v text DEFAULT '#' CHECK (v <> '#'))")))
        assert await checked(both) == ""


async def test_data_only_reads_no_definitions_except_defaults(
    both: tuple[str, str], nats_server: NatsServer, tmp_path: Path
) -> None:
    source, dest = both
    for uri in both:
        WIN1252.run(uri, T, "CREATE TABLE apart (id int PRIMARY KEY)")
    WIN1252.run(
        source,
        *map(made, REFUSED_ALL),
        "INSERT INTO t VALUES (1, 'a')",
        made("COMMENT ON TABLE t IS '#'"),
        made("ALTER TABLE apart ADD v text DEFAULT '#'"),
    )
    options = MigrationOptions(data_only=True)
    assert "column v of table public.apart" in await checked(both, options)
    WIN1252.run(source, "ALTER TABLE apart DROP v")
    assert await checked(both, options) == ""
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source, dest, MigrationOptions(data_only=True, follow=True))
            await until_phase(session, "m", Phase.STREAMING)
            await session.cleanup("m", force=True)


REFUSED_ALL = [
    REFUSED[what][0]
    for what in ("body of an SQL function", "expression of statistics", "option of a user mapping")
] + ["ALTER TABLE t ADD CONSTRAINT c CHECK (v <> '#')"]
