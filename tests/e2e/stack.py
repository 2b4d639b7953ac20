"""The suite as real processes, each to be killed and started again by itself.

One coordinator, one decoder, one applier and any number of copiers, on a nats-server that the
caller starts. Nobody supervises them: what a test ends stays ended until it starts it again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from clients.session import Session
from tests.e2e.cli import clean_environment
from tests.support.servers.nats import NatsServer
from tests.support.servers.process import free_port, spawn, tail

COORDINATOR = "coordinator"
WORKERS = ("decoder", "applier", "copier-1", "copier-2")

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 60.0
_SHOWN_LINES = 80


class Stack:
    """A context manager. A process is named by its role, or role-number.

    workers: those started at once; `start` starts others. settings: environment variables of all
    the services. A lost worker's work goes to others after 1 s, a lost copier's part after 2 s.
    """

    def __init__(
        self,
        nats: NatsServer,
        folder: Path,
        *,
        workers: Sequence[str] = WORKERS,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.state_dir = folder / "state"
        self.log_dir = folder / "logs"
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._workers = workers
        self._port_file = folder / "address"
        self._environment = clean_environment(
            PGMIG_COORDINATOR=self.address,
            PGMIG_LISTEN=self.address,
            PGMIG_NATS_URL=nats.url,
            PGMIG_STATE_DIR=str(self.state_dir),
            PGMIG_PORT_FILE=str(self._port_file),
            PGMIG_WORKER_GRACE_S="1",
            PGMIG_LEASE_S="2",
        ) | dict(settings or {})
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            for name in (COORDINATOR, *self._workers):
                self._spawn(name)
            self._wait_serving()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs, and print the end of every log, which pytest shows when a test failed."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()
        for path in sorted(self.log_dir.iterdir()):
            print(f"--- {path.name}\n{tail(path, _SHOWN_LINES)}")

    def start(self, *names: str) -> None:
        """Start processes; returns when the coordinator, if it is one of them, serves."""
        for name in names:
            self._spawn(name)
        if COORDINATOR in names:
            self._wait_serving()

    def kill9(self, *names: str) -> None:
        for name in names:
            self._processes[name].kill()
        for name in names:
            self._processes.pop(name).wait()

    def freeze(self, name: str) -> None:
        """SIGSTOP: it keeps its connections and hears nothing, like one that is cut off."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGCONT)

    def restart(self, *names: str) -> None:
        """Kill -9 and start again."""
        self.kill9(*names)
        self.start(*names)

    def runs(self, name: str) -> bool:
        """Whether it was started and not ended by us."""
        return name in self._processes

    def stop(self, name: str) -> int:
        """SIGTERM; the exit code. Raises subprocess.TimeoutExpired."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(_STOP_TIMEOUT_S)
        finally:
            process.kill()

    def log(self, name: str) -> str:
        return (self.log_dir / f"{name}.log").read_text(errors="replace")

    def session(self) -> Session:
        return Session(self.address)

    def _spawn(self, name: str) -> None:
        if name in self._processes:
            raise RuntimeError(f"{name} runs already")
        if name == COORDINATOR:
            self._port_file.unlink(missing_ok=True)
        with (self.log_dir / f"{name}.log").open("ab") as log:
            self._processes[name] = spawn(
                [sys.executable, "-P", "-m", f"services.{name.partition('-')[0]}"],
                env=self._environment,
                log=log,
            )

    def _wait_serving(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._port_file.exists():
            if self._processes[COORDINATOR].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the coordinator does not serve:\n{self.log(COORDINATOR)}")
            time.sleep(0.02)  # a file that another process writes
