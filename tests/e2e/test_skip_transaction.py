"""A transaction that the destination refuses, as one person on one machine gets past it."""

from __future__ import annotations

import json
from pathlib import Path

from services.shared.model import ExitCode, MigrationView, Phase
from tests.support.migrations.cli import Cli
from tests.support.pipeline.in_process import rows, run

STREAMING_S = 120.0
REASON = "a row of the old application"


def streaming(view: MigrationView) -> bool:
    return view.phase is Phase.STREAMING


def test_a_refused_transaction_is_skipped_while_no_service_runs(
    source_db: str, dest_db: str, tmp_path: Path
) -> None:
    run(source_db, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    cli = Cli.on(source_db, dest_db, tmp_path / "state", PGMIG_WORKER_GRACE_S="0.5")
    with cli.start("clone", "--follow", log=tmp_path / "clone.log") as clone:
        clone.until(streaming, STREAMING_S)
        run(dest_db, "ALTER TABLE item ADD CONSTRAINT no_poison CHECK (note <> 'poison')")
        run(source_db, *(f"INSERT INTO item VALUES ({n}, '{w}')" for n, w in enumerate(("a", "poison", "b"))))
        assert clone.wait() == ExitCode.FAILED
    failure = json.loads(cli.run("status", "--output", "json").stdout)["failure"]
    assert failure["xid"] > 0

    wrong = cli.run("skip-transaction", "--lsn", "1/1", "--reason", REASON)
    assert wrong.returncode == ExitCode.USAGE, wrong.stderr
    assert failure["lsn"] in wrong.stderr
    right = cli.run("skip-transaction", "--lsn", failure["lsn"], "--reason", REASON)
    assert right.returncode == ExitCode.OK, right.stderr

    with cli.start("follow", log=tmp_path / "follow.log") as follow:
        follow.until(streaming, STREAMING_S)
        status = " ".join(cli.run("status").stdout.split())
        assert REASON in status
        assert "no_poison" in status
        switchover = cli.run("switchover")
        assert switchover.returncode == ExitCode.OK, switchover.stderr
        assert follow.wait() == ExitCode.OK
    assert rows(dest_db, "SELECT id FROM item ORDER BY id") == [(0,), (2,)]
    assert cli.run("cleanup").returncode == ExitCode.OK
