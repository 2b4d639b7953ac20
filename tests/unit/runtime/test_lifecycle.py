"""A service process: how it stops, what it says, and the exit code it leaves."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PRELUDE = """
import asyncio, os, signal, sys
from services.shared.model import ErrorKind, PgmigError
from services.shared.runtime import lifecycle
from services.shared.runtime.lifecycle import run_service

def say(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()
"""

WAITS = """
async def main(settings, stop):
    say("ready")
    await stop.wait()
    say("drained")
"""


@contextmanager
def service(main: str, *, stdin: int = subprocess.DEVNULL, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A service with this `main`, as a child process."""
    program = PRELUDE + textwrap.dedent(main) + "\nsys.exit(run_service('decoder', main))\n"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_with_zero(number: signal.Signals) -> None:
    with service(WAITS) as process:
        ready(process)
        process.send_signal(number)
        code, out, err = ended(process)
    assert (code, out) == (0, "drained\n")
    assert number.name in err


def test_what_a_service_creates_is_private(tmp_path: Path) -> None:
    main = """
    async def main(settings, stop):
        open(settings.state_dir / "careless", "w").close()
    """
    before = os.umask(0)
    try:
        with service(main, PGMIG_STATE_DIR=str(tmp_path)) as process:
            assert ended(process)[0] == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "careless").stat().st_mode) == 0o600


def test_a_main_that_returns_exits_with_zero() -> None:
    with service("async def main(settings, stop): pass") as process:
        assert ended(process)[0] == 0


def test_an_error_of_ours_is_one_line_with_hint_and_its_exit_code() -> None:
    main = """
    async def main(settings, stop):
        raise PgmigError(ErrorKind.UNREACHABLE, "cannot reach the\\nsource", "start it")
    """
    with service(main) as process:
        code, out, err = ended(process)
    assert (code, out) == (4, "")
    assert err.count("\n") == 1
    assert "ERROR   decoder: cannot reach the source (start it)" in err


def test_an_error_of_ours_within_task_groups_is_found() -> None:
    main = """
    async def fail():
        raise PgmigError(ErrorKind.GAP, "a gap")

    async def main(settings, stop):
        async with asyncio.TaskGroup() as outer:
            async with asyncio.TaskGroup() as inner:
                inner.create_task(fail())
                await stop.wait()
    """
    with service(main) as process:
        code, _out, err = ended(process)
    assert code == 5
    assert "a gap" in err
    assert "Traceback" not in err


def test_an_unexpected_error_leaves_a_traceback_without_credentials() -> None:
    main = """
    async def main(settings, stop):
        raise ValueError("postgresql://u:hunter2@h/d")
    """
    with service(main) as process:
        code, _out, err = ended(process)
    assert code == 1
    assert "Traceback" in err
    assert "hunter2" not in err


def test_a_wrong_setting_is_one_line_and_the_usage_exit_code() -> None:
    with service(WAITS, PGMIG_LOG_FORMAT="xml") as process:
        code, out, err = ended(process)
    assert (code, out) == (2, "")
    assert err.startswith("pgmig-decoder: setting PGMIG_LOG_FORMAT is not valid")
    assert err.count("\n") == 1


def test_a_service_that_does_not_drain_is_cancelled() -> None:
    main = """
    lifecycle.DRAIN_S = 0.1

    async def main(settings, stop):
        try:
            say("ready")
            await asyncio.Event().wait()
        finally:
            say("cancelled")
    """
    with service(main) as process:
        ready(process)
        process.terminate()
        code, out, _err = ended(process)
    assert (code, out) == (0, "cancelled\n")


def test_a_service_that_ignores_cancellation_ends_anyway() -> None:
    main = """
    lifecycle.DRAIN_S = lifecycle.CANCEL_S = 0.1

    async def main(settings, stop):
        say("ready")
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
    """
    with service(main) as process:
        ready(process)
        process.terminate()
        assert ended(process)[0] == 1


def test_a_closed_stdin_pipe_stops_a_child_that_was_asked_to_follow_its_parent() -> None:
    with service(WAITS, stdin=subprocess.PIPE, PGMIG_EXIT_WITH_PARENT="1") as process:
        ready(process)
        code, out, err = ended(process)  # communicate() closes stdin
    assert (code, out) == (0, "drained\n")
    assert "parent process has gone" in err


def test_a_closed_stdin_pipe_means_nothing_otherwise() -> None:
    with service(WAITS, stdin=subprocess.PIPE) as process:
        ready(process)
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        process.terminate()
        code, _out, err = ended(process)
    assert code == 0
    assert "SIGTERM" in err


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_parent_takes_its_child_along_without_any_pipe(tmp_path: Path) -> None:
    trail = tmp_path / "trail"
    child = (
        PRELUDE
        + f"""
async def main(settings, stop):
    fifo = os.open({str(trail)!r}, os.O_WRONLY)
    os.write(fifo, b"ready\\n")
    await stop.wait()
    os.write(fifo, b"drained\\n")

sys.exit(run_service("decoder", main))
"""
    )
    parent = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {child!r}], stdin=subprocess.DEVNULL)
time.sleep(600)
"""
    os.mkfifo(trail)
    env = {**os.environ, "PGMIG_EXIT_WITH_PARENT": "1"}
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process, trail.open() as lines:
        assert lines.readline() == "ready\n"
        process.kill()
        assert lines.read() == "drained\n"
