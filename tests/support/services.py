"""The four services as child processes, with logs, for tests of the coordinator."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from clients.session import Session
from services.shared.model import MigrationView, Phase
from tests.support.servers.nats import NatsServer
from tests.support.servers.process import free_port, spawn, tail

WORKERS = ("decoder", "copier", "applier")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0


class Services:
    """Use as a context manager. Names: coordinator, decoder, copier, applier."""

    def __init__(
        self, nats: NatsServer, folder: Path, *, workers: Sequence[str] = WORKERS, **settings: str
    ) -> None:
        """workers: those started at once. settings: further environment variables of all."""
        self.address = f"127.0.0.1:{free_port()}"
        self.state_dir = folder / "state"
        self._workers = workers
        self._port_file = folder / "address"
        self._logs = folder / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PG")},
            "PGMIG_COORDINATOR": self.address,
            "PGMIG_LISTEN": self.address,
            "PGMIG_NATS_URL": nats.url,
            "PGMIG_STATE_DIR": str(self.state_dir),
            "PGMIG_WORKER_GRACE_S": "1",
            "PGMIG_WORKER_TOKEN": secrets.token_urlsafe(16),
            "PGMIG_PORT_FILE": str(self._port_file),
            **settings,
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            for name in ("coordinator", *self._workers):
                self.start(name)
            self.wait_serving()
        except BaseException as exc:
            self.__exit__(type(exc), exc, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        if exc is not None:
            for path in sorted(self._logs.iterdir()):
                print(f"--- {path.name}\n{tail(path, 60)}")

    def start(self, name: str) -> None:
        if name == "coordinator":
            self._port_file.unlink(missing_ok=True)
        with (self._logs / f"{name}.log").open("ab") as log:
            self._processes[name] = spawn(
                [sys.executable, "-m", f"services.{name}"], env=self._environment, log=log
            )

    def wait_serving(self) -> None:
        """Return when the coordinator has told its address."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._port_file.exists():
            if self._processes["coordinator"].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the coordinator does not serve:\n{self.log('coordinator')}")
            time.sleep(0.02)  # another process's file: nothing to await

    def kill9(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def restart(self, name: str) -> None:
        """Kill -9 and start again."""
        self.kill9(name)
        self.start(name)
        if name == "coordinator":
            self.wait_serving()

    def stop(self, name: str) -> int:
        """SIGTERM; returns the exit code."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(STOP_TIMEOUT_S)

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def log(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text(errors="replace")

    def session(self) -> Session:
        return Session(self.address)


async def until(
    session: Session, migration_id: str, condition: Callable[[MigrationView], bool]
) -> MigrationView:
    """Follow the migration until its view meets the condition; a failure of it is raised."""
    async for view in session.follow(migration_id):
        if condition(view):
            return view
        if view.phase is Phase.FAILED:
            raise AssertionError(f"the migration failed: {view.failure} {view.events[-10:]}")
    raise AssertionError("the migration was cleaned up")


async def until_phase(session: Session, migration_id: str, phase: Phase) -> MigrationView:
    return await until(session, migration_id, lambda view: view.phase is phase)
