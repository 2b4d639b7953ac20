"""The services as child processes, each of which can be killed and restarted, on a nats-server that the
caller starts."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from clients.session import Session
from services.shared.model import MigrationView, Phase
from tests.support.environment import clean_environment
from tests.support.servers.nats import NatsServer
from tests.support.servers.process import free_port
from tests.support.services.processes import Processes

COORDINATOR = "coordinator"
WORKERS = ("decoder", "copier", "applier")
START_TIMEOUT_S = 60.0


class Services:
    """One coordinator and any number of workers. Use as a context manager.

    A process is named by its role, or role-number. workers: those started at once; `start` starts others.
    settings: further environment variables of all services. A lost worker's work is assigned to others after
    1 s.
    """

    def __init__(
        self, nats: NatsServer, folder: Path, *, workers: Sequence[str] = WORKERS, **settings: str
    ) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.state_dir = folder / "state"
        self._workers = workers
        self._port_file = folder / "address"
        self._environment = clean_environment(
            PGMIG_COORDINATOR=self.address,
            PGMIG_LISTEN=self.address,
            PGMIG_NATS_URL=nats.url,
            PGMIG_STATE_DIR=str(self.state_dir),
            PGMIG_WORKER_GRACE_S="1",
            PGMIG_WORKER_TOKEN=secrets.token_urlsafe(16),
            PGMIG_PORT_FILE=str(self._port_file),
        )
        self._environment |= settings
        self._processes = Processes(folder / "logs")

    def __enter__(self) -> Self:
        try:
            self.start(COORDINATOR, *self._workers)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill all processes that run, and print the end of every log."""
        self._processes.close()
        self._processes.print_logs()

    def start(self, *names: str) -> None:
        """Start processes. If the coordinator is one of them, returns when it serves."""
        for name in names:
            if name == COORDINATOR:
                self._port_file.unlink(missing_ok=True)
            self._processes.fork(name, name.partition("-")[0], self._environment)
        if COORDINATOR in names:
            self._wait_serving()

    def change(self, **settings: str) -> None:
        """Change environment variables of the services that are started from now on."""
        self._environment |= settings

    def restart_with(self, failpoints: str) -> None:
        """Kill the coordinator, and start one with these failpoints (services.shared.runtime.failpoints)."""
        self.kill9(COORDINATOR)
        self._port_file.unlink(missing_ok=True)
        environment = self._environment | {"PGMIG_FAILPOINTS": failpoints}
        self._processes.fork(COORDINATOR, COORDINATOR, environment)
        self._wait_serving()

    def await_death(self, name: str) -> None:
        """Return when the process has ended by itself. Raises TimeoutError."""
        self._processes.await_death(name)

    def _wait_serving(self) -> None:
        """Return when the coordinator has written its address."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._port_file.exists():
            self._processes.check(COORDINATOR)
            if time.monotonic() > deadline:
                raise RuntimeError(f"the coordinator does not serve:\n{self.log(COORDINATOR)}")
            time.sleep(0.02)  # the file of another process: there is no event to wait for

    def kill9(self, *names: str) -> None:
        self._processes.kill9(*names)

    def restart(self, *names: str) -> None:
        """Kill -9 and start again."""
        self.kill9(*names)
        self.start(*names)

    def stop(self, name: str) -> int:
        """SIGTERM; returns the exit code. Raises subprocess.TimeoutExpired."""
        return self._processes.stop(name)

    def freeze(self, name: str) -> None:
        """SIGSTOP: it keeps its connections and receives nothing, like a process that is cut off."""
        self._processes.freeze(name)

    def thaw(self, name: str) -> None:
        self._processes.thaw(name)

    def runs(self, name: str) -> bool:
        """Whether it was started and not ended by us."""
        return self._processes.runs(name)

    def pid(self, name: str) -> int:
        return self._processes.pid(name)

    def log(self, name: str) -> str:
        return self._processes.log(name)

    def session(self) -> Session:
        return Session(self.address)


async def until(
    session: Session, migration_id: str, condition: Callable[[MigrationView], bool]
) -> MigrationView:
    """Watch the migration until its view meets the condition. Raises its failure."""
    async for view in session.follow(migration_id):
        if condition(view):
            return view
        if view.phase is Phase.FAILED:
            raise AssertionError(f"the migration failed: {view.failure} {view.events[-10:]}")
    raise AssertionError("the migration was cleaned up")


async def until_phase(session: Session, migration_id: str, phase: Phase) -> MigrationView:
    return await until(session, migration_id, lambda view: view.phase is phase)
