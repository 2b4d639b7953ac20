"""Objects that pg_dump writes and no server takes: named, and left out when the operator says so."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg

from services.shared.model import ExitCode
from services.shared.model.view.jsonview import view_from_json
from tests.support.migrations.cli import Cli

SOURCE = """
CREATE SCHEMA app;
CREATE TABLE app.t (id int PRIMARY KEY);
INSERT INTO app.t SELECT generate_series(1, 100);
CREATE VIEW app."it self" AS SELECT 1 AS a;
CREATE OR REPLACE VIEW app."it self" AS SELECT a FROM app."it self";
CREATE VIEW app.needs AS SELECT a FROM app."it self";
COMMENT ON VIEW app.needs IS 'goes with it';
CREATE VIEW app.fine AS SELECT id FROM app.t;
CREATE FUNCTION app.counted() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE MATERIALIZED VIEW app.failing AS SELECT app.counted() AS n;
CREATE OR REPLACE FUNCTION app.counted() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END';
"""
VIEW = "view app.it self"
ROWS = "materialized view data app.failing"


def relations(uri: str) -> set[str]:
    with psycopg.connect(uri) as conn:
        return {
            name
            for name, kind in conn.execute(
                "SELECT relname, relkind::text FROM pg_class WHERE relnamespace = 'app'::regnamespace"
            )
            if kind in {"r", "v", "m"}
        }


def test_an_object_that_cannot_be_restored_is_named_and_left_out(
    source_db: str, dest_db: str, tmp_path: Path
) -> None:
    with psycopg.connect(source_db, autocommit=True) as conn:
        conn.execute(SOURCE)
    cli = Cli.on(source_db, dest_db, tmp_path / "state")
    first = cli.run("clone")
    assert first.returncode == ExitCode.FAILED, first.stderr
    assert f"({VIEW})" in first.stderr
    assert f"--skip-object '{VIEW}'" in first.stderr
    second = cli.run("follow", "--skip-object", VIEW)
    assert second.returncode == ExitCode.FAILED, second.stderr
    assert f"--skip-object '{ROWS}'" in second.stderr
    third = cli.run("follow", "--skip-object", ROWS)
    assert third.returncode == ExitCode.OK, third.stderr
    assert relations(dest_db) == {"t", "fine", "failing"}
    with psycopg.connect(dest_db) as conn:
        assert conn.execute("SELECT count(*) FROM app.fine").fetchone() == (100,)
        assert conn.execute("SELECT relispopulated FROM pg_class WHERE relname = 'failing'").fetchone() == (
            False,
        )
    status = cli.run("status")
    assert VIEW in status.stdout
    assert ROWS in status.stdout
    view = view_from_json(json.loads(cli.run("status", "--output", "json").stdout))
    assert view.options.skip_objects == (VIEW, ROWS)


def test_what_tables_need_is_not_left_out(source_db: str, dest_db: str, tmp_path: Path) -> None:
    with psycopg.connect(source_db, autocommit=True) as conn:
        conn.execute(SOURCE)
        conn.execute("CREATE TYPE app.mood AS ENUM ('ok')")
        conn.execute("CREATE TABLE app.moody (m app.mood)")
    cli = Cli.on(source_db, dest_db, tmp_path / "state")
    done = cli.run("clone", "--skip-object", VIEW, "--skip-object", "type app.mood")
    assert done.returncode == ExitCode.FAILED, done.stderr
    assert "--skip-object cannot leave out table app.moody" in done.stderr
    assert "--exclude-table" in done.stderr


def test_a_name_that_nothing_has_is_refused_and_not_kept(
    source_db: str, dest_db: str, tmp_path: Path
) -> None:
    with psycopg.connect(source_db, autocommit=True) as conn:
        conn.execute(SOURCE)
    cli = Cli.on(source_db, dest_db, tmp_path / "state")
    assert cli.run("clone").returncode == ExitCode.FAILED
    refused = cli.run("follow", "--skip-object", "view app.gone")
    assert refused.returncode == ExitCode.USAGE, refused.stderr
    assert "the schema holds no view app.gone" in refused.stderr
    view = view_from_json(json.loads(cli.run("status", "--output", "json").stdout))
    assert view.options.skip_objects == ()
