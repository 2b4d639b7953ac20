"""`pgmig-cli` with an embedded stack, as one person on one machine uses it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg import sql

from services.shared.model import ExitCode, MigrationView, Phase
from tests.support.data.compare import compare_databases
from tests.support.data.workload import Writer
from tests.support.migrations.cli import Cli, Staying
from tests.support.migrations.live import eventually
from tests.support.migrations.verdict import checks, left_on_destination, left_on_source, problems
from tests.support.servers.door import reopen
from tests.support.servers.postgres import PostgresServer

PROGRAMS = {"nats-server", "services.coordinator", "services.decoder", "services.applier", "services.copier"}
STREAMING_S = 120.0
FIRST = "hunter2"
PASSWORD = f"{FIRST}/Zwölf:@#%"
QUOTED = f"{FIRST}%2FZw%C3%B6lf%3A%40%23%25"


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def programs(processes: list[psutil.Process]) -> set[str]:
    """Which of PROGRAMS they are."""
    lines = [" ".join(process.cmdline()) for process in processes]
    return {name for name in PROGRAMS if any(name in line for line in lines)}


def test_plain_clone_leaves_nothing_on_the_source(shop: str, dest_db: str, tmp_path: Path) -> None:
    cli = Cli.on(shop, dest_db, tmp_path / "state")
    done = cli.run("clone")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "complete" in done.stdout
    assert compare_databases(shop, dest_db) == []
    assert left_on_source(shop) == []
    cleanup = cli.run("cleanup")
    assert cleanup.returncode == ExitCode.OK, cleanup.stderr
    assert left_on_destination(dest_db) == []
    assert cli.run("status").returncode == ExitCode.NOT_FOUND
    assert list((tmp_path / "state").iterdir()) == []


def test_interrupted_it_leaves_no_process_and_is_continued(
    shop: str, dest_db: str, tmp_path: Path, writer: Writer
) -> None:
    # A short grace: there are no workers left for the next coordinator to wait for.
    cli = Cli.on(shop, dest_db, tmp_path / "state", PGMIG_WORKER_GRACE_S="0.5")
    with cli.start("clone", "--follow", log=tmp_path / "clone.log") as clone:
        clone.until(in_step, STREAMING_S)
        assert interrupted(clone, signal.SIGINT) == 128 + signal.SIGINT
    offline = cli.run("status")
    assert offline.returncode == ExitCode.OK
    assert "streaming" in offline.stdout
    writer.wait_for_commits(20)
    with cli.start("follow", log=tmp_path / "follow.log") as follow:
        follow.until(in_step, STREAMING_S)
        assert interrupted(follow, signal.SIGKILL) == -signal.SIGKILL
    writer.wait_for_commits(20)
    with cli.start("follow", log=tmp_path / "again.log") as again:
        again.until(in_step, STREAMING_S)
        switchover = cli.run("switchover")
        assert switchover.returncode == ExitCode.OK, switchover.stderr
        report = writer.wait_until_cut_off()
        assert again.wait() == ExitCode.OK
    assert problems(checks(shop, dest_db, report)) == []
    assert cli.run("cleanup").returncode == ExitCode.OK
    assert left_on_source(shop) == []
    assert left_on_destination(dest_db) == []


def in_step(view: MigrationView) -> bool:
    """Streaming, with changes applied since the command was started."""
    return view.phase is Phase.STREAMING and view.rates.rows_applied > 0


def interrupted(command: Staying, number: signal.Signals) -> int:
    """End a command by a signal; its exit code. Nothing of its stack may outlive it."""
    children = family(command.pid)
    assert programs(children) == PROGRAMS
    code = command.stop(number)
    eventually(lambda: not any(child.is_running() for child in children), "the children end")
    return code


@pytest.fixture
def keeper(
    shop: str, dest_db: str, source_server: PostgresServer, dest_server: PostgresServer
) -> Iterator[tuple[str, str]]:
    """Both databases as a role with a password that is found by its beginning wherever it lies."""
    uris = [f"postgresql://keeper:{QUOTED}@{uri.rpartition('@')[2]}" for uri in (shop, dest_db)]
    create = sql.SQL("CREATE ROLE keeper SUPERUSER LOGIN PASSWORD {}").format(sql.Literal(PASSWORD))
    for server in (source_server, dest_server):
        server.execute(create)
    yield uris[0], uris[1]
    for server, uri in ((source_server, shop), (dest_server, dest_db)):
        with psycopg.connect(reopen(uri), autocommit=True) as conn:
            conn.execute("SET default_transaction_read_only = off")
            conn.execute("REASSIGN OWNED BY keeper TO postgres")
            conn.execute("DROP OWNED BY keeper")
        server.execute("DROP ROLE keeper")


def test_password_is_written_nowhere(keeper: tuple[str, str], tmp_path: Path, writer: Writer) -> None:
    """Not in a log, even at its most talkative, a state file, the broker's store, or a command line."""
    state = tmp_path / "state"
    cli = Cli.on(*keeper, state, PGMIG_LOG_LEVEL="debug")
    said: list[str] = []
    with cli.start("clone", "--follow", log=tmp_path / "clone.log") as clone:
        clone.until(lambda view: view.phase is Phase.STREAMING, STREAMING_S)
        for process in family(clone.pid):
            said += process.cmdline()
            if "services.applier" in " ".join(process.cmdline()):
                process.kill()
        writer.wait_for_commits(20)
        done = cli.run("switchover")
        said += [done.stdout, done.stderr]
        assert done.returncode == ExitCode.OK, done.stderr
        assert clone.wait() == ExitCode.OK
    said.append((tmp_path / "clone.log").read_text())
    assert not any(FIRST in text for text in said)
    files = [path for path in state.rglob("*") if path.is_file()]
    assert {"state.json", "applier.log", "nats.conf"} <= {path.name for path in files}
    assert [path for path in files if FIRST.encode() in path.read_bytes()] == []
    assert cli.run("cleanup").returncode == ExitCode.OK
