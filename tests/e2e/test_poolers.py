"""Hooks and a pooler from one person's terminal: the embedded coordinator runs that user's commands."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import psycopg
import pytest

from services.shared.model import ExitCode, Phase
from tests.support.migrations.cli import Cli
from tests.support.servers.pgbouncer import PASSWORD, PgBouncer, UnobtainableError, program

STREAMING_S = 120.0


@pytest.fixture(autouse=True)
def _pgbouncer_is_there() -> None:
    try:
        program()
    except UnobtainableError as exc:
        if os.environ.get("PGMIG_TEST_SOURCES_REQUIRED"):
            raise
        pytest.skip(str(exc))


def test_switchover_pauses_the_pooler_and_a_hook_leads_it_to_the_destination(
    source_db: str, dest_db: str, tmp_path: Path
) -> None:
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY)")
    with PgBouncer({"shop": source_db}) as pooler:
        before = pooler.config.read_text()
        pooler.databases["shop"] = dest_db
        pooler.write_config()
        after, facts = tmp_path / "after.ini", tmp_path / "facts"
        after.write_text(pooler.config.read_text())
        pooler.config.write_text(before)
        script = 'cat > "$1"; cp "$2" "$3"; kill -HUP "$4"'  # SIGHUP is RELOAD
        arguments = [str(facts), str(after), str(pooler.config), str(pooler.pid)]
        hook = shlex.join(["sh", "-c", script, "sh", *arguments])
        uri = pooler.uri("shop")
        cli = Cli.on(source_db, dest_db, tmp_path / "state", PGMIG_PAUSE_POOLER=uri)
        with cli.start("clone", "--follow", log=tmp_path / "clone.log") as clone:
            clone.until(lambda view: view.phase is Phase.STREAMING, STREAMING_S)
            client = psycopg.connect(uri, autocommit=True, prepare_threshold=None)
            client.execute("INSERT INTO item VALUES (1)")
            checked = cli.run("switchover", "--dry-run", "--hook-after-decision", hook)
            assert checked.returncode == ExitCode.OK, checked.stderr
            assert "1 pooler can be paused" in checked.stderr
            done = cli.run("switchover", "--hook-after-decision", hook)
            assert done.returncode == ExitCode.OK, done.stderr
            assert "resume-poolers" in done.stderr
            client.execute("INSERT INTO item VALUES (2)")
            client.close()
            assert clone.wait() == ExitCode.OK
        assert json.loads(facts.read_text())["hook"] == "after-decision"
        for shown in (checked.stderr, done.stderr, done.stdout, facts.read_text()):
            assert PASSWORD not in shown
        with psycopg.connect(dest_db) as conn:
            assert conn.execute("SELECT id FROM item ORDER BY id").fetchall() == [(1,), (2,)]
