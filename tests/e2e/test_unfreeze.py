"""The old source after a switchover, from one person's terminal: closed, looked into, opened, cleaned up."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from services.shared.model import ExitCode, Phase
from tests.support.migrations.cli import Cli
from tests.support.migrations.verdict import left_on_source

STREAMING_S = 120.0


def test_old_source_is_closed_read_opened_and_its_late_writes_stop_the_cleanup(
    source_db: str, dest_db: str, tmp_path: Path
) -> None:
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY)")
    cli = Cli.on(source_db, dest_db, tmp_path / "state", PGMIG_WORKER_GRACE_S="0.5")
    with cli.start("clone", "--follow", log=tmp_path / "clone.log") as clone:
        clone.until(lambda view: view.phase is Phase.STREAMING, STREAMING_S)
        switchover = cli.run("switchover")
        assert switchover.returncode == ExitCode.OK, switchover.stderr
        assert clone.wait() == ExitCode.OK
    issued = cli.run("certificate", "-o", "json")
    assert issued.returncode == ExitCode.OK, issued.stderr
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        psycopg.connect(source_db)
    again = cli.run("clone", "--follow", "--id", "second")
    assert again.returncode == ExitCode.REFUSED
    assert "unfreeze" in again.stderr
    assert "25006" not in again.stderr
    readers = cli.run("unfreeze", "--read-only", "--id", "default")
    assert readers.returncode == ExitCode.OK, readers.stderr
    with psycopg.connect(source_db) as conn, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        conn.execute("INSERT INTO item VALUES (1)")
    writers = cli.run("unfreeze", "--yes", "--id", "default")
    assert writers.returncode == ExitCode.OK, writers.stderr
    with psycopg.connect(source_db) as conn:
        conn.execute("INSERT INTO item VALUES (1)")
    refused = cli.run("cleanup", "--id", "default")
    assert refused.returncode == ExitCode.REFUSED
    assert "1 in public.item" in refused.stderr
    done = cli.run("cleanup", "--force", "--yes", "--id", "default", "-o", "json")
    assert done.returncode == ExitCode.OK, done.stderr
    assert json.loads(done.stdout)["removed"]
    assert left_on_source(source_db) == []
    kept = cli.run("certificate", "-o", "json")
    assert (kept.returncode, kept.stdout) == (ExitCode.OK, issued.stdout)
