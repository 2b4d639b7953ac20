"""Switching over and back from the command line, again and again, while an application writes.

PGMIG_ROLLBACK_ROUNDS=10 plays ten rounds instead of three.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import psycopg
import pytest

from services.shared.model import ExitCode, Phase
from tests.support.migrations.cli import Cli
from tests.support.pipeline.in_process import rows
from tests.support.switchover.both_sides import DDL, Application, differences, doubled, missing, writable

STREAMING_S = 120.0
ROUNDS = int(os.environ.get("PGMIG_ROLLBACK_ROUNDS", "3"))
EQUAL_S = 60.0

pytestmark = pytest.mark.timeout(240 + 60 * ROUNDS)


def equal(one: str, other: str, *, sequences: bool) -> None:
    """Wait until the last transactions are applied. Nobody writes any more."""
    deadline = time.monotonic() + EQUAL_S
    while found := differences(one, other, sequences=sequences):
        assert time.monotonic() < deadline, f"different for too long: {found}"
        time.sleep(0.2)


def test_rounds_of_switchover_and_rollback_under_load_end_equal(
    source_db: str, dest_db: str, tmp_path: Path
) -> None:
    with psycopg.connect(source_db) as conn:
        conn.execute(DDL)
    cli = Cli.on(source_db, dest_db, tmp_path / "state", PGMIG_WORKER_GRACE_S="0.5")
    with cli.start("clone", "--follow", log=tmp_path / "clone.log") as clone:
        clone.until(lambda view: view.phase is Phase.STREAMING, STREAMING_S)
        with Application(source_db, dest_db) as application:
            for _ in range(ROUNDS):
                there = cli.run("switchover", "--reverse", "--timeout", "60s")
                assert there.returncode == ExitCode.OK, there.stderr
                assert "switched over" in there.stdout
                assert (writable(source_db), writable(dest_db)) == (False, True)
                application.wait_for_more(20)
                shown = cli.run("status")
                assert "Reverse lag" in shown.stdout
                back = cli.run("rollback", "--timeout", "60s")
                assert back.returncode == ExitCode.OK, back.stderr
                assert "rolled back to the source" in back.stdout
                assert (writable(source_db), writable(dest_db)) == (True, False)
                application.wait_for_more(20)
        equal(source_db, dest_db, sequences=False)
        assert missing(source_db, application.acknowledged) == set()
        there = cli.run("switchover", "--reverse", "--timeout", "60s")
        assert there.returncode == ExitCode.OK, there.stderr
        assert differences(source_db, dest_db) == []
        assert doubled(source_db) == doubled(dest_db) == []
        again = cli.run("switchover", "--reverse")
        assert again.returncode == ExitCode.CONFLICT
        assert "pgmig-cli rollback" in again.stderr
        with psycopg.connect(dest_db) as conn:
            conn.execute("INSERT INTO item VALUES (-1)")
        equal(source_db, dest_db, sequences=False)
        done = cli.run("finalize", "--yes")
        assert done.returncode == ExitCode.OK, done.stderr
        assert clone.wait() == ExitCode.OK
    issued = cli.run("certificate", "-o", "json")
    assert issued.returncode == ExitCode.OK, issued.stderr
    assert json.loads(issued.stdout)
    cleaned = cli.run("cleanup", "--id", "default")
    assert cleaned.returncode == ExitCode.OK, cleaned.stderr
    for uri in (source_db, dest_db):
        assert (
            rows(uri, "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()") == []
        )
        assert rows(uri, "SELECT pubname FROM pg_publication") == []
        assert rows(uri, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgmig'") == []
    assert writable(dest_db)
