"""The embedded stack with a real nats-server and stand-ins for the services."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from pathlib import Path

import psutil
import pytest

from clients.embedded.child import Child, Program, lifeline
from clients.embedded.logfile import last_line
from clients.embedded.prestart import can_fork
from clients.embedded.stack import StackPlan, embedded_stack
from clients.session import Session
from services.shared.model import ErrorKind, MigrationOptions, PgmigError, Phase
from tests.fakes.cli import fake_module
from tests.support.services.embedded import (
    PYTHON,
    SECRET,
    Notes,
    directory,
    eventually,
    eventually_answers,
    fork_server,
    listening,
    listens,
    open_files,
    own_children,
    plan,
    running,
)


async def test_stack_can_be_found_while_it_runs_and_leaves_no_process(state_dir: Path) -> None:
    async with running(state_dir) as address:
        stack = directory(state_dir).running_stack()
        assert stack is not None
        assert (stack.coordinator, stack.pid) == (address, os.getpid())
        # nats-server, coordinator, applier, decoder, one copier; each shows what it runs a moment late
        await eventually(lambda: len(own_children()) == 5)
        children = own_children()
        async with Session(address) as session:
            assert await session.list_all() == ()
    assert directory(state_dir).running_stack() is None
    assert not any(process.is_running() for process in children.values())


async def test_secrets_are_in_no_command_line_and_files_are_private(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGMIG_SOURCE_URI", SECRET)
    async with running(state_dir):
        token = json.loads(
            next(
                line.split(":", 1)[1].rstrip(" }")
                for line in (state_dir / "m" / "nats" / "nats.conf").read_text().splitlines()
                if line.startswith("authorization")
            ).removeprefix(" token:")
        )
        children = own_children()
        for process in children.values():
            command = " ".join(process.cmdline())
            assert token not in command
            assert "hush" not in command
            assert "hush" not in " ".join(process.environ().values()) or not can_fork()
        logs = {name: state_dir / "m" / "log" / f"{name}.log" for name in ("coordinator", "decoder")}
        await eventually(lambda: all("ready" in last_line(log) for log in logs.values()))
        assert "PGMIG_SOURCE_URI" in last_line(logs["coordinator"])
        assert "PGMIG_SOURCE_URI" not in last_line(logs["decoder"])
        for name in ("nats/nats.conf", "stack.json", "stack.lock", "log/coordinator.log", "log/stack.log"):
            assert stat.S_IMODE((state_dir / "m" / name).stat().st_mode) == 0o600, name
        assert stat.S_IMODE((state_dir / "m").stat().st_mode) == 0o700


@pytest.mark.parametrize("victim", ["nats-server", "fakes.coordinator", "fakes.worker"])
async def test_killed_child_comes_back_where_it_was(state_dir: Path, victim: str) -> None:
    notes = Notes()
    async with running(state_dir, notes) as address, Session(address) as session:
        await session.start("m", SECRET, SECRET, MigrationOptions(follow=True))
        before = own_children()[victim]
        places = listening(before)
        assert bool(places) == (victim != "fakes.worker")
        os.kill(before.pid, signal.SIGKILL)
        await notes.told("SIGKILL")
        await eventually(lambda: listens(own_children().get(victim), places))
        assert before.pid not in {process.pid for process in own_children().values()}
        async for view in session.follow("m"):
            assert view.migration_id == "m"
            break
    assert "SIGKILL" in (state_dir / "m" / "log" / "stack.log").read_text()


@pytest.mark.skipif(not can_fork(), reason="the services are executed on this system")
async def test_services_are_restarted_with_the_process_that_they_are_forked_from(state_dir: Path) -> None:
    notes = Notes()
    async with running(state_dir, notes) as address:
        await eventually(lambda: len(own_children()) == 5)
        before = [process for name, process in own_children().items() if "fakes" in name]
        server = fork_server()
        server.kill()
        await eventually(lambda: not any(process.is_running() for process in before))
        for name in ("coordinator", "decoder", "copier-1", "applier"):
            await notes.told(f"{name} ended (SIGKILL)")
        await eventually(lambda: len(own_children()) == 5)
        assert fork_server().pid != server.pid
        async with Session(address) as session:
            await eventually_answers(session)


@pytest.mark.skipif(not can_fork(), reason="the services are executed on this system")
async def test_process_that_services_are_forked_from_has_one_thread_and_no_connection(
    state_dir: Path,
) -> None:
    """All that a fork can carry over: with the real services' modules imported."""
    module = "services.{}.__main__".format
    async with embedded_stack(plan(state_dir, module), Notes()) as stack:
        await stack.serving()
        server = fork_server()
        assert server.num_threads() == 1
        assert server.net_connections() == []


@pytest.mark.skipif(not can_fork(), reason="the services are executed on this system")
async def test_forked_service_has_the_streams_session_and_title_of_an_executed_one(state_dir: Path) -> None:
    async with running(state_dir):
        await eventually(lambda: "fakes.worker" in own_children())
        worker = own_children()["fakes.worker"]
        assert worker.cmdline() == [PYTHON, "-P", "-m", "tests.fakes.worker"]
        assert os.getsid(worker.pid) == worker.pid
        files = open_files(worker.pid)
        assert files[1] == files[2] == str(state_dir / "m" / "log" / "decoder.log")
        assert files[0] in open_files(os.getpid()).values()
        shared = set(files.values()) & set(open_files(fork_server().pid).values())
        assert {one for one in shared if one.startswith(("pipe:", "socket:"))} == {files[0]}


async def test_second_stack_of_one_migration_is_refused(state_dir: Path) -> None:
    async with running(state_dir):
        with pytest.raises(PgmigError) as caught:
            async with running(state_dir):
                pass
        assert caught.value.kind is ErrorKind.ALREADY_EXISTS
        assert str(os.getpid()) in caught.value.message
        assert directory(state_dir).running_stack() is not None


async def test_stacks_of_one_state_directory_do_not_see_each_others_migrations(state_dir: Path) -> None:
    async with running(state_dir) as address, Session(address) as session:
        await session.start("m", SECRET, SECRET, MigrationOptions(follow=True))
        other = StackPlan(directory(state_dir, "other"), SECRET, SECRET, (), 1, fake_module)
        async with embedded_stack(other, Notes()) as second, Session(await second.serving()) as beside:
            assert await beside.list_all() == ()
    assert (state_dir / "m" / "state.json").is_file()
    async with running(state_dir) as address, Session(address) as session:
        assert [view.migration_id for view in await session.list_all()] == ["m"]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("tests.fakes.broken", "no such thing"),
        ("tests.fakes.absent", "ModuleNotFoundError: No module named 'tests.fakes.absent'"),
    ],
)
async def test_service_that_does_not_start_is_an_error_with_its_last_words(
    state_dir: Path, module: str, words: str
) -> None:
    with pytest.raises(PgmigError) as caught:
        async with embedded_stack(plan(state_dir, lambda _role: module), Notes()) as stack:
            await stack.serving()
    assert caught.value.kind is ErrorKind.INTERNAL
    assert f"coordinator did not start, exit code 1: {words}" in caught.value.message
    assert "coordinator.log" in caught.value.hint
    assert own_children() == {}
    assert not (state_dir / "m" / "nats").exists()


async def test_stack_without_workers_has_broker_and_coordinator_only(state_dir: Path) -> None:
    async with embedded_stack(plan(state_dir, workers=()), Notes()) as stack:
        await stack.serving()
        assert sorted(own_children()) == ["fakes.coordinator", "nats-server"]


async def test_cancelled_twice_the_stack_is_killed_at_once(state_dir: Path) -> None:
    def module(role: str) -> str:
        return fake_module(role) if role == "coordinator" else "tests.fakes.deaf"

    started = asyncio.Event()

    async def stay() -> None:
        async with embedded_stack(plan(state_dir, module), Notes()) as stack:
            await stack.serving()
            started.set()
            await asyncio.Event().wait()

    others = set(psutil.Process().children(recursive=True))
    task = asyncio.create_task(stay())
    await started.wait()
    logs = [state_dir / "m" / "log" / f"{name}.log" for name in ("decoder", "copier-1", "applier")]
    await eventually(lambda: all(last_line(log) == "deaf" for log in logs))
    children = [child for child in psutil.Process().children(recursive=True) if child not in others]
    task.cancel()
    stack_log = state_dir / "m" / "log" / "stack.log"
    await eventually(lambda: "stopping decoder, copier-1, applier" in stack_log.read_text())
    task.cancel()
    async with asyncio.timeout(12):
        with pytest.raises(asyncio.CancelledError):
            await task
    gone, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=12)
    assert (len(gone), alive) == (len(children), [])


async def test_deaf_child_is_killed_with_its_group_after_its_grace(tmp_path: Path) -> None:
    script = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    log = tmp_path / "deaf.log"
    with lifeline() as ties:
        program = Program("deaf", (PYTHON, "-c", script), dict(os.environ), grace_s=0.2)
        child = await Child.start(program, log, ties)
        await eventually(lambda: bool(last_line(log)))
        grandchild = psutil.Process(int(last_line(log)))
        await child.stop()
    assert not child.running
    psutil.wait_procs([grandchild], timeout=30)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


async def test_missing_nats_server_is_an_error_with_a_hint(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGMIG_NATS_SERVER", str(state_dir / "nowhere"))
    with pytest.raises(PgmigError) as caught:
        async with running(state_dir):
            pass
    assert caught.value.kind is ErrorKind.TOOL_MISSING
    monkeypatch.delenv("PGMIG_NATS_SERVER")
    monkeypatch.setenv("PATH", str(state_dir))
    monkeypatch.setattr(sys, "executable", str(state_dir / "python"))
    with pytest.raises(PgmigError) as caught:
        async with running(state_dir):
            pass
    assert "pgmig[embedded]" in caught.value.hint


async def test_migration_runs_to_its_end_under_the_stack(state_dir: Path) -> None:
    async with running(state_dir) as address, Session(address) as session:
        await session.start("m", SECRET, SECRET, MigrationOptions())
        seen = set()
        async for view in session.follow("m"):
            seen.add(view.phase)
            if view.phase.ended:
                break
        assert Phase.COMPLETE in seen
    offline = directory(state_dir).offline_view()
    assert offline is not None
    assert offline.view.phase is Phase.COMPLETE
