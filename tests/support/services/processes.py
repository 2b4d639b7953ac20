"""Named child processes of a test, each with a log. Nothing supervises them: a process that a test ends is
not restarted until the test starts it."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tests.support.servers.process import spawn, tail
from tests.support.services.forking import fork_server

STOP_TIMEOUT_S = 60.0
_SHOWN_LINES = 80


class Process(Protocol):
    """The methods needed of a child, executed or forked."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...

    def kill(self) -> None: ...


class Processes:
    """logs: the folder of the logs, one NAME.log for each process."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._logs.mkdir(parents=True, exist_ok=True)
        self._running: dict[str, Process] = {}

    def spawn(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._check_ended(name)
        with self.log_path(name).open("ab") as log:
            self._running[name] = spawn(argv, env=env, cwd=cwd, log=log)

    def fork(self, name: str, role: str, env: Mapping[str, str]) -> None:
        """Start the service of a role, as the embedded stack does."""
        self._check_ended(name)
        self._running[name] = fork_server().fork(name, role, env, self.log_path(name))

    def _check_ended(self, name: str) -> None:
        if name in self._running:
            raise RuntimeError(f"{name} runs already")

    def kill9(self, *names: str) -> None:
        for name in names:
            self._running[name].kill()
        for name in names:
            self._running.pop(name).wait()

    def await_death(self, name: str) -> None:
        """Return when it has ended by itself. Raises TimeoutError."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while self._running[name].poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} still runs:\n{self.log(name)}")
            time.sleep(0.01)
        del self._running[name]

    def stop(self, name: str) -> int:
        """SIGTERM; the exit code. Raises subprocess.TimeoutExpired."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_TIMEOUT_S)
        finally:
            process.kill()

    def freeze(self, name: str) -> None:
        """SIGSTOP: it keeps its connections and receives nothing, like a process that is cut off."""
        self._running[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGCONT)

    def runs(self, name: str) -> bool:
        """Whether it was started and not ended by us."""
        return name in self._running

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def check(self, *names: str) -> None:
        """Raise RuntimeError with the end of its log if one of these processes, or of all, ended by
        itself."""
        for name in names or self._running:
            if (code := self._running[name].poll()) is not None:
                raise RuntimeError(f"the {name} ended with {code}:\n{self.tail(name)}")

    def log_path(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def log(self, name: str) -> str:
        return self.log_path(name).read_text(errors="replace")

    def tail(self, name: str) -> str:
        """The end of its log, for an error message."""
        return tail(self.log_path(name), _SHOWN_LINES)

    def close(self) -> None:
        """Kill all processes that run."""
        self.kill9(*self._running)

    def print_logs(self) -> None:
        """The end of every log, which pytest shows when a test has failed."""
        for path in sorted(self._logs.glob("*.log")):
            print(f"--- {path.name}\n{tail(path, _SHOWN_LINES)}")
