"""pgmig-cli as a process with an embedded stack: signals, orphans, and other terminals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from clients.embedded.local_state import MigrationDir
from clients.embedded.prestart import can_fork
from services.shared.model import MigrationId, Phase

PASSWORD = "hush-hush"
WHOLE_STACK = 5 + can_fork()
"""nats-server, coordinator, decoder, copier, applier; and what the services are forked from."""
URI = f"postgresql://app:{PASSWORD}@127.0.0.1:1/none"


class Terminal:
    """Runs pgmig-cli commands, with stand-ins for the services, in one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PGMIG_")},
            "TERMINAL": str(state_dir),
            "PGMIG_STATE_DIR": str(state_dir),
            "PGMIG_SOURCE_URI": URI,
            "PGMIG_DEST_URI": URI,
        }
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.cli", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = self.start(*arguments)
        stdout, stderr = process.communicate(timeout=60)
        return process.returncode, stdout, stderr

    def directory(self, name: str = "default") -> MigrationDir:
        return MigrationDir(self.state_dir, MigrationId.parse(name))

    def logs(self) -> set[str]:
        """Which programs have been started."""
        return {path.stem for path in self.directory().log_dir.glob("*.log")}

    def phase(self) -> Phase | None:
        offline = self.directory().offline_view()
        return offline.view.phase if offline else None

    def streaming(self) -> subprocess.Popen[str]:
        """A `clone --follow` that has got as far as it gets by itself."""
        process = self.start("clone", "--follow")
        eventually(lambda: self.phase() is Phase.STREAMING and self.directory().running_stack() is not None)
        return process


def eventually(true: Callable[[], bool], within_s: float = 30.0) -> None:
    """Another process gets there by itself, and nothing tells us when."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def started_in(terminal: Terminal) -> list[psutil.Process]:
    """Every process that runs now and that a command in the terminal has started, or is."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TERMINAL") == str(terminal.state_dir):
                found.append(process)
    return found


def stack_of(command: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of its embedded stack."""
    return psutil.Process(command.pid).children(recursive=True)


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def terminal(state_dir: Path) -> Iterator[Terminal]:
    terminal = Terminal(state_dir)
    yield terminal
    for process in terminal.started:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)
    eventually(lambda: not started_in(terminal))


def test_clone_ends_by_itself_with_a_summary(terminal: Terminal) -> None:
    code, stdout, stderr = terminal.run("clone")
    assert code == 0, stderr
    assert stdout.startswith("complete")
    assert "phase copy" in stderr
    assert terminal.directory().running_stack() is None
    assert terminal.logs() == {"coordinator", "decoder", "copier-1", "nats-server", "stack"}


def test_clone_as_json_is_one_view_a_line(terminal: Terminal) -> None:
    code, stdout, stderr = terminal.run("clone", "--output", "json", "--id", "j")
    assert code == 0, stderr
    views = [json.loads(line) for line in stdout.splitlines()]
    assert views[-1]["phase"] == "complete"
    assert {view["migration_id"] for view in views} == {"j"}


def test_other_terminals_find_the_stack_and_switchover_ends_the_clone(terminal: Terminal) -> None:
    clone = terminal.streaming()
    code, stdout, _ = terminal.run("status", "--output", "json")
    assert code == 0
    assert (json.loads(stdout)["phase"], json.loads(stdout)["live"]) == ("streaming", True)
    assert "paused" in terminal.run("pause")[1]
    assert "streaming" in terminal.run("resume")[1] or terminal.phase() is Phase.STREAMING
    eventually(lambda: terminal.phase() is Phase.STREAMING)
    code, stdout, stderr = terminal.run("switchover", "--timeout", "5s")
    assert code == 0, stderr
    assert "writes were blocked for 412ms" in stdout
    assert "commit" in stderr
    stdout, _ = clone.communicate(timeout=60)
    assert clone.returncode == 0
    assert stdout.startswith("switched-over")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signal_stops_everything_and_follow_continues(
    terminal: Terminal, number: signal.Signals, code: int
) -> None:
    clone = terminal.streaming()
    children = stack_of(clone)
    assert len(children) == WHOLE_STACK
    clone.send_signal(number)
    _, stderr = clone.communicate(timeout=60)
    assert clone.returncode == code
    assert "pgmig-cli follow --id default" in stderr
    assert "slot pgmig_default stays on the source" in stderr
    assert PASSWORD not in stderr
    assert all(gone(child) for child in children)
    assert terminal.run("status")[1].splitlines()[0].endswith("default")

    following = terminal.start("follow")
    eventually(lambda: len(stack_of(following)) == WHOLE_STACK)
    assert terminal.run("switchover")[0] == 0
    following.communicate(timeout=60)
    assert following.returncode == 0


def test_clone_that_resumes_has_an_applier_if_it_is_to_follow(terminal: Terminal) -> None:
    clone = terminal.streaming()
    clone.terminate()
    clone.communicate(timeout=60)
    resumed = terminal.start("clone", "--resume")  # --follow is the migration's own already
    eventually(lambda: len(stack_of(resumed)) == WHOLE_STACK)


def test_killed_cli_leaves_no_orphan_and_a_stale_file_that_nobody_believes(terminal: Terminal) -> None:
    clone = terminal.streaming()
    children = stack_of(clone)
    clone.kill()
    clone.communicate(timeout=60)
    eventually(lambda: all(gone(child) for child in children))
    assert terminal.directory().stack_file.exists()
    assert terminal.directory().running_stack() is None
    code, _, stderr = terminal.run("pause")
    assert code == 4
    assert "no process runs" in stderr
    assert "pgmig-cli follow --id default" in stderr


def test_new_stack_waits_until_the_services_of_a_killed_cli_have_ended(terminal: Terminal) -> None:
    clone = terminal.streaming()
    # Before it has set up its signals, SIGTERM would end it even while it is suspended.
    log = terminal.directory().log_dir / "applier.log"
    eventually(lambda: "ready" in log.read_text())
    children = psutil.Process(clone.pid).children(recursive=True)
    held = next(child for child in children if str(log) in [file.path for file in child.open_files()])
    held.suspend()
    clone.kill()
    clone.communicate(timeout=60)
    following = terminal.start("follow")
    assert following.stderr is not None
    assert "waiting for the services of an earlier run" in following.stderr.readline()
    assert terminal.directory().running_stack() is None
    held.resume()
    eventually(lambda: terminal.directory().running_stack() is not None)
    assert gone(held)


def test_second_clone_of_a_running_migration_conflicts(terminal: Terminal) -> None:
    terminal.streaming()
    code, stdout, stderr = terminal.run("clone", "--follow", "--resume")
    assert (code, stdout) == (8, "")
    assert "runs already on this machine" in stderr


def test_clone_of_a_known_migration_conflicts_and_resume_continues_it(terminal: Terminal) -> None:
    assert terminal.run("clone")[0] == 0
    code, _, stderr = terminal.run("clone")
    assert code == 8
    assert "pgmig-cli cleanup --id default" in stderr
    code, stdout, _ = terminal.run("clone", "--resume")
    assert code == 0
    assert stdout.startswith("complete")


def test_clone_that_is_refused_leaves_no_process(terminal: Terminal) -> None:
    for arguments in (("clone", "--no-such-option"), ("clone", "--id", "Not An Id")):
        assert terminal.run(*arguments)[0] == 2
        assert started_in(terminal) == []


def test_failed_migration_ends_the_clone_with_its_own_exit_code(terminal: Terminal) -> None:
    code, stdout, stderr = terminal.run("clone", "--id", "broken")
    assert (code, stdout) == (5, "")
    assert "error: migration broken failed" in stderr
    assert "pgmig-cli follow --id broken" in stderr


def test_cleanup_starts_what_it_needs_and_forgets_the_migration(terminal: Terminal) -> None:
    assert terminal.run("clone")[0] == 0
    code, stdout, stderr = terminal.run("cleanup")
    assert code == 0, stderr
    assert "removed replication slot pgmig_default" in stdout
    assert not terminal.directory().path.exists()
    assert terminal.run("status")[0] == 7


def test_abort_without_a_stack_starts_no_worker(terminal: Terminal) -> None:
    clone = terminal.streaming()
    clone.send_signal(signal.SIGINT)
    clone.communicate(timeout=60)
    log = terminal.directory().log_dir / "decoder.log"
    before = log.stat().st_mtime_ns
    code, stdout, stderr = terminal.run("abort")
    assert code == 0, stderr
    assert "aborted" in stdout
    assert log.stat().st_mtime_ns == before
    assert terminal.run("follow")[0] == 5
