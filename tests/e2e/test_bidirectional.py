"""Both sides are written to, from the command line."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest

from services.shared.model import ExitCode, MigrationView, Phase
from tests.support.migrations.cli import Cli
from tests.support.pipeline.in_process import rows, run

WITHIN_S = 120.0
ALL = "SELECT id, v FROM item ORDER BY id"

pytestmark = pytest.mark.timeout(240)


def is_open(view: MigrationView) -> bool:
    return any(event.text == "both sides are open to writers" for event in view.events)


def equal(one: str, other: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while rows(one, ALL) != rows(other, ALL):
        assert time.monotonic() < deadline, (rows(one, ALL), rows(other, ALL))
        time.sleep(0.1)


def test_both_sides_are_written_to_until_they_part(source_db: str, dest_db: str, tmp_path: Path) -> None:
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id serial PRIMARY KEY, v text)")
        conn.execute("INSERT INTO item (v) SELECT 'old' FROM generate_series(1, 100)")
    cli = Cli.on(source_db, dest_db, tmp_path / "state", PGMIG_WORKER_GRACE_S="0.5")
    options = ("--follow", "--bidirectional", "--sequence-stride", "--on-conflict", "apply-remote")
    with cli.start("clone", *options, log=tmp_path / "clone.log") as clone:
        clone.until(is_open, WITHIN_S)
        for _ in range(20):
            run(source_db, "INSERT INTO item (v) VALUES ('here')")
            run(dest_db, "INSERT INTO item (v) VALUES ('there')")
        equal(source_db, dest_db)
        assert len(rows(dest_db, ALL)) == 140
        cli.run("pause")
        run(source_db, "INSERT INTO item VALUES (5000, 'of the source')")
        run(dest_db, "INSERT INTO item VALUES (5000, 'of the destination')")
        assert cli.run("resume").returncode == ExitCode.OK
        clone.until(lambda view: sum(one.rates.conflicts for one in view.pipelines) == 2, WITHIN_S)
        listed = cli.run("conflicts")
        assert listed.returncode == ExitCode.OK, listed.stderr
        assert listed.stdout.count("insert_exists") == 4  # counted, and listed
        assert rows(source_db, "SELECT v FROM item WHERE id = 5000") == [("of the destination",)]
        assert rows(dest_db, "SELECT v FROM item WHERE id = 5000") == [("of the source",)]
        shown = cli.run("status").stdout
        assert "bidirectional" in shown
        assert "1 conflict resolved" in shown
        refused = cli.run("switchover")
        assert refused.returncode == ExitCode.CONFLICT
        assert "pgmig-cli finalize" in refused.stderr
        done = cli.run("finalize", "--yes")
        assert done.returncode == ExitCode.OK, done.stderr
        clone.until(lambda view: view.phase is Phase.COMPLETE, WITHIN_S)
        assert clone.wait() == ExitCode.OK
    for uri in (source_db, dest_db):
        run(uri, "INSERT INTO item (v) VALUES ('alone')")
    cleaned = cli.run("cleanup", "--id", "default")
    assert cleaned.returncode == ExitCode.OK, cleaned.stderr
    for uri in (source_db, dest_db):
        assert rows(uri, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgmig'") == []
        assert rows(uri, "SELECT pubname FROM pg_publication") == []
