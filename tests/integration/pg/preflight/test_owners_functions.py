"""Functions that owners of the source wrote, in what PostgreSQL evaluates when a row is written."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from services.shared.model import (
    EventLevel,
    MigrationId,
    MigrationOptions,
    Phase,
    Selection,
    StepState,
)
from services.shared.pg.preflight.checks import check_migration
from tests.support.pipeline.in_process import rows, run
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.roles import plain_role, remove_roles
from tests.support.services.services import Services, until_phase

WITH_RIGHTS = "with the rights of"
MOMENTS = ("cast", "check", "domain", "generated", "index", "trigger")
"""When the attacker's functions run on the destination. The default of a column is not among them:
pgmig writes every column."""

# `attempt` takes off whatever role was set, and swallows what it is refused. EXECUTE is forbidden to an
# immutable function, but not to a volatile one that it calls.
ATTACK = """
CREATE SCHEMA app AUTHORIZATION {owner};
SET ROLE {owner};
CREATE FUNCTION app.attempt(what text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
  BEGIN
    RESET SESSION AUTHORIZATION;
  EXCEPTION WHEN OTHERS THEN NULL;
  END;
  BEGIN
    EXECUTE 'RESET ROLE';
  EXCEPTION WHEN OTHERS THEN NULL;
  END;
  EXECUTE format('CREATE ROLE %I SUPERUSER', '{evil}_' || what);
  RETURN true;
EXCEPTION WHEN OTHERS THEN
  RETURN true;
END $$;
CREATE FUNCTION app.immutable(what text, v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
  PERFORM app.attempt(what);
  RETURN v;
END $$;
CREATE FUNCTION app.fired() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM app.attempt('trigger');
  RETURN NEW;
END $$;
CREATE DOMAIN app.number AS int CONSTRAINT domain_checked CHECK (app.attempt('domain'));
CREATE TABLE app.t (
  id int PRIMARY KEY DEFAULT app.immutable('default', 0),
  v app.number,
  g int GENERATED ALWAYS AS (app.immutable('generated', id)) STORED,
  CONSTRAINT checked CHECK (app.attempt('check'))
);
CREATE INDEX indexed ON app.t (app.immutable('index', id));
CREATE TRIGGER fires BEFORE INSERT ON app.t FOR EACH ROW EXECUTE FUNCTION app.fired();
ALTER TABLE app.t ENABLE ALWAYS TRIGGER fires;
CREATE TYPE app.pair AS (a int, b int);
CREATE FUNCTION app.shown(p app.pair) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM app.attempt('cast');
  RETURN 'any';
END $$;
CREATE CAST (app.pair AS text) WITH FUNCTION app.shown(app.pair);
CREATE TABLE app.keyless (p app.pair);
ALTER TABLE app.keyless REPLICA IDENTITY FULL;
INSERT INTO app.keyless VALUES ((1, 2));
INSERT INTO app.t VALUES (1, 1);
RESET ROLE;
"""


class Tenants:
    """Two roles on both servers, the first with a schema full of attacks on the source."""

    def __init__(self, source: str, destination: str, dest_server: PostgresServer) -> None:
        word = secrets.token_hex(4)
        self.source = source
        self.destination = destination
        self.owners = (f"owner_a_{word}", f"owner_b_{word}")
        self.evil = f"evil_{word}"
        self.dest_server = dest_server

    def created(self) -> list[str]:
        """At which moments a superuser was created on the destination."""
        found = rows(
            self.destination,
            f"SELECT rolname::text FROM pg_roles WHERE rolname LIKE '{self.evil}_%' AND rolsuper ORDER BY 1",
        )
        return [str(name).removeprefix(f"{self.evil}_") for (name,) in found]


@pytest.fixture
def tenants(
    source_server: PostgresServer, source_db: str, dest_server: PostgresServer, dest_db: str
) -> Iterator[Tenants]:
    tenants = Tenants(source_db, dest_db, dest_server)
    with ExitStack() as stack:
        for server, uri in ((source_server, source_db), (dest_server, dest_db)):
            for owner in tenants.owners:
                server.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(owner)))
            stack.callback(remove_roles, server, uri, tenants.owners)
        with psycopg.connect(source_db, autocommit=True) as conn:
            conn.execute(ATTACK.format(owner=tenants.owners[0], evil=tenants.evil).encode())
        yield tenants
        for moment in tenants.created():
            dest_server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(f"{tenants.evil}_{moment}")))


async def migrate(tenants: Tenants, destination: str, nats: NatsServer, folder: Path) -> list[str]:
    """From the start to the switchover, with rows that are copied and others that are followed; the
    warnings."""
    with Services(nats, folder) as services:
        async with services.session() as session:
            await session.start("m", tenants.source, destination, MigrationOptions(follow=True))
            view = await until_phase(session, "m", Phase.STREAMING)
            run(tenants.source, "INSERT INTO app.t VALUES (2, 2)", "UPDATE app.t SET v = 3 WHERE id = 1")
            run(tenants.source, "DELETE FROM app.keyless")
            assert [step async for step in session.switchover("m", 30.0)][-1].state == StepState.DONE
    query = "SELECT id, v, g FROM app.t ORDER BY id"
    assert rows(tenants.destination, query) == [(1, 3, 1), (2, 2, 2)]
    return [event.text for event in view.events if event.level == EventLevel.WARNING]


async def test_they_have_the_rights_of_a_superuser_who_is_warned(
    tenants: Tenants, nats_server: NatsServer, tmp_path: Path
) -> None:
    """What the warning says is true, so what the next test shows is no accident."""
    warnings = await migrate(tenants, tenants.destination, nats_server, tmp_path)
    # pgmig itself calls no such cast (S16). The warning names it, since expressions of the schema may.
    assert tenants.created() == [moment for moment in MOMENTS if moment != "cast"]
    (warning,) = (text for text in warnings if WITH_RIGHTS in text)
    for name in (
        *("constraint checked on table app.t", "constraint domain_checked of type app.number"),
        *("generated column g of table app.t", "index app.indexed", "trigger fires on table app.t"),
        "cast from app.pair to text",
    ):
        assert name in warning
    assert "column id" not in warning


async def test_they_cannot_create_a_superuser_where_the_role_is_none(
    tenants: Tenants, nats_server: NatsServer, tmp_path: Path
) -> None:
    with plain_role(tenants.dest_server, tenants.destination, tenants.owners) as destination:
        warnings = await migrate(tenants, destination, nats_server, tmp_path)
        assert tenants.created() == []
    assert not any(WITH_RIGHTS in text for text in warnings)


async def warned(source: str, destination: str, options: MigrationOptions | None = None) -> str:
    """The warning about functions of owners; empty when there is none."""
    migration, options = MigrationId.parse("pre"), options or MigrationOptions()
    passed = await check_migration(migration, source, destination, follow=False, options=options)
    return " ".join(text for text in passed.warnings if WITH_RIGHTS in text)


def write(tenants: Tenants, text: str) -> None:
    """On the source as the owner."""
    with psycopg.connect(tenants.source, autocommit=True) as conn:
        conn.execute("DROP SCHEMA app CASCADE")
        conn.execute(f"CREATE SCHEMA app AUTHORIZATION {tenants.owners[0]}".encode())
        conn.execute(f"SET ROLE {tenants.owners[0]}; {text}".encode())


BUILT_IN = "query_to_xml('SELECT 1', false, false, '') IS NOT NULL"
"""It carries out any SQL."""
VALID = (
    "CREATE FUNCTION app.valid(int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN true; END';"
    " CREATE TABLE app.t (id int PRIMARY KEY);"
)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            f"CREATE TABLE app.t (id int PRIMARY KEY, CONSTRAINT c CHECK ({BUILT_IN}))",
            "constraint c on table",
        ),
        (
            f"{VALID} CREATE INDEX i ON app.t (id) WHERE app.valid(id)",
            "index app.i",
        ),
        (
            f"{VALID} CREATE TABLE app.p (id int) PARTITION BY LIST (app.valid(id))",
            "partition key of table app.p",
        ),
        (
            "CREATE TABLE app.t (id int PRIMARY KEY); CREATE RULE r AS ON INSERT TO app.t DO ALSO SELECT 1;"
            " ALTER TABLE app.t ENABLE REPLICA RULE r",
            "rule r on table app.t",
        ),
        (
            "CREATE FUNCTION app.diff(int, int) RETURNS float8 IMMUTABLE LANGUAGE sql"
            " AS 'SELECT 1.0::float8';"
            " CREATE TYPE app.span AS RANGE (subtype = int, subtype_diff = app.diff)",
            "type app.span",
        ),
    ],
    ids=["built-in", "predicate", "partition key", "rule", "range"],
)
async def test_whatever_calls_functions_is_named(tenants: Tenants, text: str, named: str) -> None:
    write(tenants, text)
    assert named in await warned(tenants.source, tenants.destination)


async def test_what_calls_none_and_what_superusers_made_is_not_named(tenants: Tenants) -> None:
    plain = (
        "CREATE TABLE {0}.t (id int PRIMARY KEY DEFAULT {0}.valid(), v text CHECK (length(v) > 0),"
        " low text GENERATED ALWAYS AS (lower(v)) STORED); "
        "CREATE INDEX ON {0}.t (upper(v)) WHERE v IS NOT NULL;"
    )
    write(
        tenants,
        "CREATE FUNCTION app.valid() RETURNS int LANGUAGE sql AS 'SELECT 1';"
        + plain.format("app")
        + "CREATE MATERIALIZED VIEW app.m AS SELECT * FROM app.t",
    )
    run(
        tenants.source,
        "CREATE FUNCTION public.valid() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        plain.format("public"),
        "ALTER TABLE public.t ADD CHECK (public.valid() > 0)",
    )
    assert await warned(tenants.source, tenants.destination) == ""
    without = await warned(tenants.source, tenants.destination, MigrationOptions(no_owner=True))
    assert "materialized view app.m" in without  # refreshed with our rights then


async def test_only_what_is_taken_is_named(tenants: Tenants) -> None:
    table = f"(id int PRIMARY KEY, CONSTRAINT c CHECK ({BUILT_IN}))"
    write(tenants, f"CREATE TABLE app.taken {table}; CREATE TABLE app.left_out {table}")
    options = MigrationOptions(selection=Selection(exclude_tables=("app.left_out",)))
    warning = await warned(tenants.source, tenants.destination, options)
    assert "app.taken" in warning
    assert "app.left_out" not in warning
    assert await warned(tenants.source, tenants.destination, MigrationOptions(schema_only=True)) == ""


@pytest.mark.parametrize("power", ["member", "pg_execute_server_program", "pg_write_server_files"])
async def test_a_role_that_may_become_a_superuser_is_warned(tenants: Tenants, power: str) -> None:
    with plain_role(tenants.dest_server, tenants.destination, tenants.owners) as destination:
        assert await warned(tenants.source, destination) == ""
        mover = urlsplit(destination).username
        run(tenants.destination, f"GRANT {'postgres' if power == 'member' else power} TO {mover}")
        assert "which may become a superuser" in await warned(tenants.source, destination)
