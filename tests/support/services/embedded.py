"""The embedded stack with stand-ins for the services, and functions that show its processes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from clients.embedded.local_state import MigrationDir
from clients.embedded.stack import FOLLOW_WORKERS, StackPlan, embedded_stack
from clients.session import Session
from services.shared.model import MigrationId, PgmigError
from tests.fakes.cli import fake_module
from tests.support.services import forking

PYTHON = sys.executable
SECRET = "postgresql://app:hush@127.0.0.1:1/none"


def directory(state_dir: Path, name: str = "m") -> MigrationDir:
    return MigrationDir(state_dir, MigrationId.parse(name))


def plan(
    state_dir: Path,
    module: Callable[[str], str] = fake_module,
    workers: tuple[str, ...] = FOLLOW_WORKERS,
) -> StackPlan:
    return StackPlan(directory(state_dir), SECRET, SECRET, workers, 1, module)


async def eventually(true: Callable[[], bool]) -> None:
    """Poll until `true` returns true: other processes send no event about it."""
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.02)


class Notes:
    """The supervisor's messages for the operator. `told` waits for a message that contains a text."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._more = asyncio.Event()

    def note(self, text: str) -> None:
        self.warn(text)

    def warn(self, text: str) -> None:
        self._texts.append(text)
        self._more.set()

    async def told(self, about: str) -> None:
        while not any(about in text for text in self._texts):
            self._more.clear()
            await self._more.wait()


def fork_server() -> psutil.Process:
    """The fork server of the stack's services, which is not the one of `tests.support.services.forking`."""
    others = {forking.fork_server().pid}
    (found,) = (
        one
        for one in psutil.Process().children()
        if "forkserver" in " ".join(one.cmdline()) and one.pid not in others
    )
    return found


def own_children() -> dict[str, psutil.Process]:
    """Processes by program: nats-server, coordinator, worker."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue  # it has ended in the meantime
        for name in ("nats-server", "fakes.coordinator", "fakes.worker"):
            if name in command:
                found[f"{name}-{process.pid}" if name in found else name] = process
    return found


@asynccontextmanager
async def running(state_dir: Path, notes: Notes | None = None) -> AsyncIterator[str]:
    async with embedded_stack(plan(state_dir), notes or Notes()) as stack:
        yield await stack.serving()


def listening(process: psutil.Process) -> set[object]:
    """TCP ports, and paths of Unix sockets."""
    ports = {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return ports | {c.laddr for c in process.net_connections("unix") if str(c.laddr).endswith(".sock")}


def listens(process: psutil.Process | None, places: set[object]) -> bool:
    if process is None:
        return False
    try:
        return places <= listening(process)
    except psutil.Error:
        return False


async def eventually_answers(session: Session) -> None:
    """Return when the session's coordinator answers, which was just restarted."""
    async with asyncio.timeout(60):
        while True:
            try:
                await session.list_all()
            except PgmigError as exc:
                assert exc.policy.retry
                await asyncio.sleep(0.02)
            else:
                return


def open_files(pid: int) -> dict[int, str]:
    """By file descriptor."""
    return {
        int(link.name): str(link.readlink())
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink()
    }
