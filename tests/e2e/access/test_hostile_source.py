"""Owners of objects on the source who write SQL into names and comments: it stays text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from services.shared.model import ExitCode
from tests.support.migrations.cli import Cli
from tests.support.servers.postgres import PostgresServer

OWNER = "hostile_owner"
INTRUDER = "hostile_intruder"


def forged(kind: str, statements: str) -> str:
    """What looks like two more entries of a script of pg_restore's, the first of them with SQL."""
    head = "--\n-- Name: forged; Type: {}; Schema: app; Owner: -\n--\n\n"
    return f"begins here\n\n{head.format(kind)}{statements}\n\n\n{head.format('COMMENT')}ends here"


STATEMENTS = f"CREATE INDEX forged ON app.t USING btree (a);\nCREATE ROLE {INTRUDER} SUPERUSER LOGIN;"


@pytest.fixture
def owned(source_server: PostgresServer, dest_server: PostgresServer) -> Iterator[tuple[str, str]]:
    """URIs of two databases; the first belongs to a role without any privilege beyond it."""
    drop = sql.SQL("DROP ROLE IF EXISTS {}")
    for server in (source_server, dest_server):
        server.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(OWNER)))
    try:
        with source_server.fresh_database("hostile") as source, dest_server.fresh_database("dest") as dest:
            with psycopg.connect(source, autocommit=True) as conn:
                conn.execute(sql.SQL("CREATE SCHEMA app AUTHORIZATION {}").format(sql.Identifier(OWNER)))
            yield source, dest
    finally:
        for server in (source_server, dest_server):
            for role in (OWNER, INTRUDER):
                server.execute(drop.format(sql.Identifier(role)))


def superusers(uri: str) -> set[str]:
    with psycopg.connect(uri) as conn:
        return {row[0] for row in conn.execute("SELECT rolname FROM pg_roles WHERE rolsuper")}


def make_hostile(uri: str) -> dict[str, str]:
    """Comments of every kind of object that the post-data section holds, with forged entries; returns
    them by the object that they are about."""
    comments: dict[str, str] = {}
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(OWNER)))
        conn.execute("SET search_path = app")
        conn.execute("CREATE TABLE t (a int CONSTRAINT key PRIMARY KEY, b text DEFAULT 'x''; $$ \\')")
        conn.execute(
            "CREATE INDEX i ON t (b) WHERE b <> E'\\\\'';\n\n--\n-- Name: x; Type: INDEX; Schema: -'"
        )
        conn.execute("CREATE RULE r AS ON DELETE TO t WHERE old.a < 0 DO INSTEAD NOTHING")
        conn.execute("CREATE POLICY p ON t USING (a > 0)")
        for target, kind in (
            ("INDEX i", "INDEX"),
            ("CONSTRAINT key ON t", "CONSTRAINT"),
            ("RULE r ON t", "RULE"),
            ("POLICY p ON t", "MATERIALIZED VIEW DATA"),
            ("COLUMN t.a", "EVENT TRIGGER"),
        ):
            comments[target] = forged(kind, STATEMENTS)
            conn.execute(
                sql.SQL("COMMENT ON {} IS {}").format(
                    sql.SQL(target),
                    sql.Literal(comments[target]),
                )
            )
    return comments


def comment(uri: str, expression: str) -> str:
    with psycopg.connect(uri) as conn:
        row = conn.execute(f"SELECT {expression}".encode()).fetchone()
    assert row is not None
    return str(row[0])


def test_forged_entries_in_comments_create_no_superuser(owned: tuple[str, str], tmp_path: Path) -> None:
    source, dest = owned
    before = superusers(dest)
    comments = make_hostile(source)
    done = Cli.on(source, dest, tmp_path / "state").run("clone")
    assert superusers(dest) == before
    assert done.returncode == ExitCode.OK, done.stderr
    assert comment(dest, "obj_description('app.i'::regclass)") == comments["INDEX i"]
    assert comment(dest, "col_description('app.t'::regclass, 1)") == comments["COLUMN t.a"]
