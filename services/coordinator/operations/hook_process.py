"""Runs a command of the operator: without a shell, bounded in time and output, without our secrets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.shared.model import ErrorKind, PgmigError
from services.shared.model.redaction import redact

log = logging.getLogger(__name__)

TERMINATE_S = 2.0
"""From SIGTERM to SIGKILL, and from there until the command is left to itself."""
DRAIN_S = 0.5
"""How long output is read after the end of the command: its children may keep the pipe open."""
LINES, LINE_LENGTH = 20, 300
"""The last lines of output that are kept, and the characters of each."""
CHUNK = 16 << 10
_SECRETS = frozenset({"PGPASSWORD"})
_SECRET_ENDS = ("_TOKEN", "_SECRET", "_PASSWORD", "_HEADERS")
_OURS = "PGMIG_"


@dataclass(frozen=True, slots=True)
class Ran:
    """failure: why the command failed; "": it ended with exit code 0. lines: its last output, redacted."""

    failure: str
    lines: tuple[str, ...] = ()


def divided(command: str) -> list[str]:
    """The words of a command, quoted as in a shell. Raises INVALID_ARGUMENT, also if the program does not
    exist."""
    try:
        words = shlex.split(command)
    except ValueError as exc:
        raise _unusable(command, f"it cannot be divided into words: {exc}") from None
    if not words:
        raise _unusable(command, "it is empty")
    program = words[0]
    if "/" in program and not Path(program).is_absolute():
        raise _unusable(program, "its path is not absolute")
    if shutil.which(program) is None:
        raise _unusable(program, "no such program can be executed on the coordinator's host")
    return words


def _unusable(what: str, why: str) -> PgmigError:
    return PgmigError(
        ErrorKind.INVALID_ARGUMENT,
        f"the command {what!r} of a hook cannot be used: {why}",
        "a hook is a program with its arguments, which the coordinator executes without a shell; to use one, "
        "write sh -c '...'",
    )


def environment(facts: Mapping[str, str], inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The coordinator's own environment without its settings and without secrets, and `facts`."""
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(_OURS) and name not in _SECRETS and not name.endswith(_SECRET_ENDS)
    }
    return {**kept, **facts}


async def run_command(words: list[str], facts: Mapping[str, str], stdin: bytes, timeout_s: float) -> Ran:
    """Run it in a process group of its own, which is killed after `timeout_s`, or if this is cancelled.
    Returns within some seconds after that, even if processes that the command has left keep its output open,
    or if it cannot be killed."""
    read_end, write_end = os.pipe()
    try:
        process = await _started(words, facts, stdin, write_end)
    except OSError as exc:
        os.close(read_end)
        return Ran(f"{words[0]} cannot be executed: {exc.strerror}")
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    output = _Output()
    reading = asyncio.create_task(output.read(read_end), name="hook-output")
    failure = ""
    try:
        async with asyncio.timeout(timeout_s):
            code = await process.wait()
        if code:
            failure = f"it ended with exit code {code}" if code > 0 else f"signal {-code} ended it"
    except TimeoutError:
        failure = f"it did not end within {timeout_s:g} s, and was killed"
    finally:
        if not await _end(process):
            log.error("process %d of a hook cannot be killed", process.pid)
            failure = f"it did not end within {timeout_s:g} s, and process {process.pid} cannot be killed"
        await asyncio.wait({reading}, timeout=DRAIN_S)
        reading.cancel()
        await asyncio.wait({reading})
    return Ran(failure, output.lines())


async def _started(
    words: list[str], facts: Mapping[str, str], stdin: bytes, stdout: int
) -> asyncio.subprocess.Process:
    """asyncio has no pipe to it: Process.wait() would wait until everybody has closed the pipes, and not only
    until the process has ended."""
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        return await asyncio.create_subprocess_exec(
            *words,
            stdin=given,
            stdout=stdout,
            stderr=asyncio.subprocess.STDOUT,
            env=environment(facts),
            start_new_session=True,
        )


async def _end(process: asyncio.subprocess.Process) -> bool:
    """Kill the process group of a command that has not ended. A command that has ended may have left
    processes on purpose. Returns whether it has ended."""
    if process.returncode is not None:
        return True
    _signal(process, signal.SIGTERM)
    try:
        await _ended(process)
    finally:
        _signal(process, signal.SIGKILL)
    return await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> bool:
    """Whether it ends within TERMINATE_S."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TERMINATE_S):
            await process.wait()
    return process.returncode is not None


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """The command may have ended, or may run as another user."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


class _Output:
    """The last lines of output."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=LINES)
        self._rest = b""

    async def read(self, descriptor: int) -> None:
        """Until its end. Closes it."""
        reader = asyncio.StreamReader()
        pipe = os.fdopen(descriptor, "rb", buffering=0)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
        try:
            while chunk := await reader.read(CHUNK):
                *lines, rest = (self._rest + chunk).split(b"\n")
                self._lines.extend(line for line in lines if line.strip())
                self._rest = rest[-CHUNK:]
        finally:
            transport.close()

    def lines(self) -> tuple[str, ...]:
        """Redacted before they are shortened: a shortened password would not be recognized."""
        found = [*self._lines, *([self._rest] if self._rest.strip() else [])]
        texts = (redact(line.decode(errors="replace").strip()) for line in found[-LINES:])
        return tuple(text[:LINE_LENGTH] for text in texts)
