"""The demo passes on a small database, and would not if anything had been lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psutil
import psycopg
import pytest

from tests.support.data.workload import WriterReport
from tests.support.environment import clean_environment
from tests.support.migrations.live import application, eventually
from tests.support.migrations.verdict import checks, exit_code, problems
from tests.support.servers.postgres import PostgresServer

pytestmark = pytest.mark.xdist_group("demo")

ROOT = Path(__file__).parents[2]
DEMO = (sys.executable, "-m", "tests.e2e.demo")
DEMO_S = 120.0


@pytest.mark.timeout(DEMO_S + 30)
def test_it_passes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--rows", "5000", "--seconds", "1"],
        cwd=ROOT,
        env=clean_environment(TMPDIR=str(tmp_path)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEMO_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for word in ("PASSED", "switchover", "writes blocked for", "pgmig-cli cleanup"):
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_failed_step_is_reported_with_the_logs(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--rows", "1000"],
        cwd=ROOT,
        env=clean_environment(TMPDIR=str(tmp_path), PGMIG_NATS_SERVER="/nowhere/nats-server"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEMO_S,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED" in done.stdout
    assert "PASSED" not in done.stdout
    logs = next(Path(line.split()[-1]) for line in done.stdout.splitlines() if "logs " in line)
    assert "/nowhere/nats-server" in (logs / "clone.log").read_text()
    assert (logs / "source.log").exists()


@pytest.mark.timeout(DEMO_S + 30)
@pytest.mark.parametrize("word", ["seeded", "catchup"])
def test_interrupted_it_leaves_nothing_behind(word: str, tmp_path: Path) -> None:
    """By a terminal's Ctrl-C at the line that holds `word`; a second one changes nothing."""
    with subprocess.Popen(
        [*DEMO, "--rows", "5000"],
        cwd=ROOT,
        env=clean_environment(TMPDIR=str(tmp_path)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        assert any(word in line for line in demo.stdout)
        children = psutil.Process(demo.pid).children(recursive=True)
        assert children
        demo.send_signal(signal.SIGINT)
        demo.send_signal(signal.SIGINT)
        said = demo.communicate(timeout=DEMO_S)[1]
    assert demo.returncode == 130
    assert said == "interrupted; nothing is left behind\n"
    eventually(lambda: not any(child.is_running() for child in children), "its processes end")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def twins(source_server: PostgresServer, template: str) -> Iterator[tuple[PostgresServer, str, WriterReport]]:
    """A server, the name of a database on it that an application has written to, and its report."""
    with source_server.fresh_database("twin", template) as uri:
        with application(uri) as writer:
            writer.wait_for_commits(20)
        yield source_server, uri.rpartition("/")[2], writer.stop()


SPOILT: dict[str, LiteralString] = {
    "a value": "UPDATE shop.accounts SET balance = balance + 0.01 WHERE id = 1",
    "a lost row": "DELETE FROM shop.markers WHERE id = (SELECT min(id) FROM shop.markers)",
    "a duplicate": "INSERT INTO shop.audit_log SELECT * FROM shop.audit_log LIMIT 1",
    "a sequence": "SELECT setval('shop.order_number_seq', 1000)",
    "an index": "DROP INDEX shop.accounts_owner_idx",
}


@pytest.mark.parametrize("what", [*SPOILT, "nothing"])
def test_its_verdict(what: str, twins: tuple[PostgresServer, str, WriterReport]) -> None:
    server, original, report = twins
    with server.fresh_database("twin", original) as copy:
        with psycopg.connect(copy) as conn:
            if what in SPOILT:
                conn.execute(SPOILT[what])
        found = checks(server.uri(original), copy, report)
    assert bool(problems(found)) == (what in SPOILT)
    assert exit_code(found) == int(what in SPOILT)


def test_no_verdict_is_no_success() -> None:
    assert exit_code([]) == 1
