"""From the start to the switchover with a destination role that is no superuser, made as the manual says."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from services.shared.model import (
    EventLevel,
    ExitCode,
    MigrationView,
    Phase,
)
from tests.support.data.compare import compare_databases, compare_rows
from tests.support.migrations.cli import Cli
from tests.support.migrations.verdict import left_on_destination, left_on_source
from tests.support.pipeline.in_process import rows, run
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.roles import plain_role, remove_roles

STREAMING_S = 120.0

APPLICATION = """
CREATE EXTENSION hstore;
CREATE SCHEMA app AUTHORIZATION {a};
CREATE SCHEMA sales AUTHORIZATION {b};
GRANT USAGE ON SCHEMA app TO {b};

SET ROLE {a};
CREATE TYPE app.mood AS ENUM ('good', 'bad');
CREATE FUNCTION app.short(text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT length($1) < 100';
CREATE TABLE app.people (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text UNIQUE,
  tags public.hstore NOT NULL DEFAULT '',
  mood app.mood NOT NULL DEFAULT 'good',
  note text CHECK (app.short(note)),
  loud text GENERATED ALWAYS AS (upper(note)) STORED
);
CREATE INDEX ON app.people (lower(note));
CREATE FUNCTION app.forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not again'; END $$;
ALTER TABLE app.people ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON app.people USING (true);
GRANT SELECT, REFERENCES ON app.people TO {b};
INSERT INTO app.people (name, note) SELECT 'p' || i, 'note ' || i FROM generate_series(1, 500) i;
CREATE TRIGGER once BEFORE INSERT ON app.people FOR EACH ROW EXECUTE FUNCTION app.forbid();

SET ROLE {b};
CREATE TABLE sales.orders (
  id bigint, day date, person int REFERENCES app.people, PRIMARY KEY (id, day)
) PARTITION BY RANGE (day);
CREATE TABLE sales.orders_old PARTITION OF sales.orders FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
CREATE TABLE sales.orders_new PARTITION OF sales.orders FOR VALUES FROM ('2026-01-01') TO (MAXVALUE);
CREATE SEQUENCE sales.numbers START 100;
INSERT INTO sales.orders
  SELECT nextval('sales.numbers'), date '2025-06-01' + i % 600, i % 500 + 1 FROM generate_series(1, 2000) i;
CREATE VIEW sales.recent AS SELECT * FROM sales.orders WHERE day > '2026-01-01';
CREATE MATERIALIZED VIEW sales.per_person AS SELECT person, count(*) FROM sales.orders GROUP BY person;
COMMENT ON TABLE sales.orders IS 'what was ordered';
RESET ROLE;
"""
CHANGES = (
    "UPDATE app.people SET mood = 'bad', note = note || '!' WHERE id % 3 = 0",
    "DELETE FROM sales.orders WHERE id % 5 = 0",
    "INSERT INTO sales.orders SELECT nextval('sales.numbers'), '2026-03-01', 1 FROM generate_series(1, 50)",
    "UPDATE sales.orders SET day = '2025-01-01' WHERE id % 7 = 0 AND day > '2026-01-01'",
    "TRUNCATE sales.orders_old",
)


@pytest.fixture
def pair(
    source_server: PostgresServer, source_db: str, dest_server: PostgresServer, dest_db: str
) -> Iterator[tuple[str, str]]:
    """The application's database, and an empty one as the role without superuser rights."""
    word = secrets.token_hex(4)
    owners = (f"keeper_{word}", f"seller_{word}")
    with ExitStack() as stack:
        for server, uri in ((source_server, source_db), (dest_server, dest_db)):
            for owner in owners:
                server.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(owner)))
            stack.callback(remove_roles, server, uri, owners)
        with psycopg.connect(source_db, autocommit=True) as conn:
            conn.execute(APPLICATION.format(a=owners[0], b=owners[1]).encode())
        yield source_db, stack.enter_context(plain_role(dest_server, dest_db, owners))


def streaming(view: MigrationView) -> bool:
    return view.phase is Phase.STREAMING


OWNERS = """
SELECT c.oid::regclass::text, c.relowner::regrole::text FROM pg_class c
 WHERE c.relnamespace IN ('app'::regnamespace, 'sales'::regnamespace)
       AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
UNION ALL
SELECT oid::regprocedure::text, proowner::regrole::text FROM pg_proc WHERE pronamespace = 'app'::regnamespace
UNION ALL
SELECT nspname, nspowner::regrole::text FROM pg_namespace WHERE nspname IN ('app', 'sales')
ORDER BY 1"""


def test_it_migrates_everything(pair: tuple[str, str], dest_db: str, tmp_path: Path) -> None:
    source, _ = pair
    cli = Cli.on(*pair, tmp_path / "state")
    with cli.start("clone", "--follow", log=tmp_path / "clone.log") as clone:
        view = clone.until(streaming, STREAMING_S)
        # Neither progress kept in a row, nor functions that might take over the server.
        assert [event.text for event in view.events if event.level == EventLevel.WARNING] == []
        run(source, *CHANGES)
        done = cli.run("switchover", "--timeout", "60s")
        assert done.returncode == ExitCode.OK, done.stderr
        assert clone.wait() == ExitCode.OK
    assert compare_databases(source, dest_db) == []
    assert compare_rows(source, dest_db) == []
    assert rows(source, OWNERS) == rows(dest_db, OWNERS)
    cleanup = cli.run("cleanup")
    assert cleanup.returncode == ExitCode.OK, cleanup.stderr
    assert left_on_source(source) == []
    assert left_on_destination(dest_db) == []
