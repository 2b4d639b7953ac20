"""Supervision: keep programs running, restart crashed ones, stop all in order.

When a program is started, the supervisor waits until it is ready; a failure before that is the caller's
error. After that the program is kept running: when it exits, with any status, it is started again
after a back-off, which grows while the program does not stay up. The programs are stopped in the reverse
order of their start, those of one tier together.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clients.embedded.child import Child, Program, Ties
from clients.embedded.forking import ForkServer
from clients.embedded.logfile import last_line
from services.shared.model import (
    ErrorKind,
    PgmigError,
    back_off_s,
)

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 30.0
STABLE_AFTER_S = 60.0
"""After a program has run this long, its earlier crashes no longer count."""

READY_POLL_S = 0.005

Ready = Callable[[Child], bool]


def restart_delay(crashes: int) -> float:
    """Seconds before the restart after the `crashes`-th crash in a row (from 1)."""
    return back_off_s(FIRST_DELAY_S, LONGEST_DELAY_S, crashes - 1)


def describe_exit(status: int) -> str:
    """An exit status as text: "exit code 1", "SIGKILL"."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


@dataclass(frozen=True, slots=True)
class Launch:
    """tier: programs of one tier stop together, the highest tier first. ready: whether the child has
    started; None: do not wait."""

    program: Program
    tier: int
    ready: Ready | None = None


@dataclass(slots=True)
class _Kept:
    program: Program
    tier: int
    child: Child
    ready: Ready | None
    task: asyncio.Task[None] | None = None


class Supervisor:
    """Programs of one stack. `warn` reports crashes to the operator. forks: starts programs that are
    modules; None: all programs are executed."""

    def __init__(
        self, log_dir: Path, ties: Ties, warn: Callable[[str], None], forks: ForkServer | None = None
    ) -> None:
        self._log_dir = log_dir
        self._ties = ties
        self._forks = forks
        self._warn = warn
        self._kept: list[_Kept] = []

    def log_file(self, name: str) -> Path:
        return self._log_dir / f"{name}.log"

    def pids(self) -> dict[str, int]:
        """Name to process id of all running programs."""
        return {kept.program.name: kept.child.pid for kept in self._kept if kept.child.running}

    async def launch(self, launch: Launch) -> None:
        """Start a program. Raises PgmigError(INTERNAL)."""
        child = await self._started(launch.program)
        log.info("%s started, pid %d", launch.program.name, child.pid)
        self._kept.append(_Kept(launch.program, launch.tier, child, launch.ready))

    async def ready(self, within_s: float = 30.0) -> None:
        """Wait until all launched programs are ready, and keep them running from then on.

        Raises PgmigError(INTERNAL) if a program exits before it is ready, or is not ready in time.
        """
        for kept in self._kept:
            if kept.task is not None:
                continue
            if kept.ready is not None:
                await self._await_ready(kept.child, kept.ready, within_s)
            kept.task = asyncio.create_task(self._keep(kept), name=f"keep-{kept.program.name}")

    async def _started(self, program: Program) -> Child:
        file = self.log_file(program.name)
        if self._forks is not None and program.module:
            return await self._forks.start(program, file)
        return await Child.start(program, file, self._ties)

    async def stop(self) -> None:
        """Stop everything, highest tier first; each program within its grace period. If this is
        cancelled, kill the remaining ones at once."""
        try:
            await self._stop_keeping()
            for tier in sorted({kept.tier for kept in self._kept}, reverse=True):
                await self._stop_tier([kept.child for kept in self._kept if kept.tier == tier])
        except asyncio.CancelledError:
            for kept in self._kept:
                kept.child.kill()
            await asyncio.gather(*(kept.child.wait() for kept in self._kept))
            raise
        finally:
            self._kept.clear()

    async def _stop_keeping(self) -> None:
        tasks = [kept.task for kept in self._kept if kept.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop_tier(self, children: list[Child]) -> None:
        log.info("stopping %s", ", ".join(child.program.name for child in children))
        async with asyncio.TaskGroup() as group:
            for child in children:
                group.create_task(child.stop())

    async def _await_ready(self, child: Child, ready: Ready, within_s: float) -> None:
        name = child.program.name
        file = self.log_file(name)
        deadline = time.monotonic() + within_s
        while not ready(child):
            if not child.running:
                raise PgmigError(
                    ErrorKind.INTERNAL,
                    f"{name} did not start, {describe_exit(await child.wait())}: {last_line(file)}",
                    f"see {file}",
                )
            if time.monotonic() > deadline:
                raise PgmigError(
                    ErrorKind.INTERNAL, f"{name} was not ready within {within_s:g} s", f"see {file}"
                )
            await asyncio.sleep(READY_POLL_S)

    async def _keep(self, kept: _Kept) -> None:
        name, crashes = kept.program.name, 0
        while True:
            began = time.monotonic()
            status = await kept.child.wait()
            crashes = 1 if time.monotonic() - began > STABLE_AFTER_S else crashes + 1
            delay = restart_delay(crashes)
            ended = f"{name} ended ({describe_exit(status)})"
            log.error("%s; starting it again in %.1f s", ended, delay)
            self._warn(f"{ended}; it is started again (log: {self.log_file(name)})")
            await asyncio.sleep(delay)
            await self._restart(kept)

    async def _restart(self, kept: _Kept) -> None:
        """If a program cannot be started, this counts as a crash, because `wait` returns at once."""
        name = kept.program.name
        try:
            kept.child = await self._started(kept.program)
        except (PgmigError, OSError) as exc:
            log.error("%s: %s", name, exc)
        else:
            log.info("%s started again, pid %d", name, kept.child.pid)
