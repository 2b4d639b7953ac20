"""One child process: started with a lifeline and a log file, stopped within a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from clients.embedded.logfile import open_log
from services.shared.model import ErrorKind, PgmigError

_SHIM = Path(__file__).with_name("shim.py")


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. argv[0] is an absolute path. env is the complete environment (it may contain
    credentials). grace_s: from SIGTERM to SIGKILL. module: the module whose main() does the same, for a
    program that can be forked instead; "" for a program that is not ours."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    grace_s: float = 10.0
    module: str = ""


@dataclass(frozen=True, slots=True)
class Ties:
    """File descriptors that tie children to this process. stdin: their standard input, a pipe that closes
    when this process ends. kept: other descriptors that they keep open as long as they live."""

    stdin: int
    kept: tuple[int, ...] = ()


@contextlib.contextmanager
def lifeline(*kept: int) -> Iterator[Ties]:
    """Ties for children. Their standard input ends at the end of the block, and when this process
    dies."""
    read_end, write_end = os.pipe()
    try:
        yield Ties(read_end, kept)
    finally:
        os.close(read_end)
        os.close(write_end)


class Process(Protocol):
    """A process with the interface of asyncio.subprocess. returncode: None while it runs."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def terminate(self) -> None: ...

    async def wait(self) -> int: ...


class Child:
    """A running program. It leads its own process group, which ends with it."""

    def __init__(self, program: Program, process: Process) -> None:
        self.program = program
        self._process = process
        self._group_may_live = True

    @classmethod
    async def start(cls, program: Program, log_file: Path, ties: Ties) -> Child:
        """Start `program` with both outputs appended to `log_file` (created with mode 0600)."""
        command = [sys.executable, "-I", "-S", str(_SHIM), str(os.getpid()), str(int(signal.SIGTERM))]
        log = open_log(log_file)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                *program.argv,
                stdin=ties.stdin,
                stdout=log,
                stderr=log,
                env=dict(program.env),
                start_new_session=True,
                pass_fds=ties.kept,
            )
        except OSError as exc:
            raise PgmigError(
                ErrorKind.INTERNAL, f"cannot start {program.name}: {exc.strerror or exc}"
            ) from exc
        finally:
            os.close(log)
        return cls(program, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """Exit status, negative for a signal. Processes left in the child's group are killed."""
        status = await self._process.wait()
        if self._group_may_live:  # only once, because another group may get the number later
            self._group_may_live = False
            self._kill_group()
        return status

    async def stop(self) -> None:
        """Send SIGTERM, then SIGKILL after the program's grace; if cancelled, SIGKILL at once."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            async with asyncio.timeout(self.program.grace_s):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            self.kill()
        await self.wait()

    def kill(self) -> None:
        """Send SIGKILL to a child that still runs, and to its group, which it may not lead yet."""
        if self.running:
            self._kill_group()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
