"""A hook's command ends within its time, whatever it leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.coordinator.operations import hook_process
from services.coordinator.operations.hook_process import Ran, run_command

AT_LAST_S = 30.0
"""Without a bound the test would wait for the 600 s of the processes that hooks start here."""
LONG_S = 300.0


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Path]:
    """The file into which a hook writes the number of the process that it leaves. It is killed at the end."""
    path = tmp_path / "child"
    yield path
    os.kill(int(path.read_text()), signal.SIGKILL)


async def run(script: str, *arguments: object, timeout_s: float = LONG_S) -> Ran:
    async with asyncio.timeout(AT_LAST_S):
        return await run_command(["sh", "-c", script, "sh", *map(str, arguments)], {}, b"facts\n", timeout_s)


async def test_command_that_leaves_a_process_with_its_output_has_ended(child: Path) -> None:
    ran = await run('setsid sleep 600 & echo $! > "$1"; cat; echo done', child)
    assert ran == Ran("", ("facts", "done"))


async def test_exit_code_counts_even_if_a_process_keeps_the_output_open(child: Path) -> None:
    ran = await run('setsid sleep 600 & echo $! > "$1"; exit 3', child)
    assert ran.failure == "it ended with exit code 3"


async def test_process_outside_of_its_group_does_not_prolong_a_command_that_is_killed(child: Path) -> None:
    ran = await run('setsid sleep 600 & echo $! > "$1"; wait', child, timeout_s=0.3)
    assert ran.failure == "it did not end within 0.3 s, and was killed"


@pytest.fixture
async def started(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Commands that pgmig cannot kill, because they run as another user (sudo). They end with the test."""
    found: list[asyncio.subprocess.Process] = []
    create = asyncio.create_subprocess_exec

    async def noting(*words: str, **options: Any) -> asyncio.subprocess.Process:
        found.append(await create(*words, **options))
        return found[-1]

    def refuse(_group: int, _number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noting)
    monkeypatch.setattr(os, "killpg", refuse)
    monkeypatch.setattr(hook_process, "TERMINATE_S", 0.05)
    yield found
    for process in found:
        process.kill()
        await process.wait()


async def test_command_that_cannot_be_killed_is_left_and_reported(
    started: list[asyncio.subprocess.Process],
) -> None:
    ran = await run("exec sleep 600", timeout_s=0.3)
    (process,) = started
    assert ran.failure == f"it did not end within 0.3 s, and process {process.pid} cannot be killed"


async def test_command_that_cannot_be_killed_does_not_hold_up_who_cancels_it(
    started: list[asyncio.subprocess.Process],
) -> None:
    running = asyncio.create_task(run("exec sleep 600"))
    while not started:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_output_is_bounded_and_a_command_need_not_read_its_input() -> None:
    ran = await run("exec <&-; seq 1 100000; printf '%01000d' 0")
    assert ran.failure == ""
    assert len(ran.lines) == hook_process.LINES
    assert ran.lines[-2:] == ("100000", "0" * hook_process.LINE_LENGTH)
