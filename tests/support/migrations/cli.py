"""pgmig-cli as a user runs it: a process with an environment, JSON lines and an exit code."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from services.shared.model import MigrationView
from services.shared.model.view.jsonview import view_from_json
from tests.support.environment import clean_environment
from tests.support.servers.process import launch_argv, tail

COMMAND_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 45.0
"""More than the embedded stack's own bounds for stopping its programs one after the other."""


def program() -> list[str]:
    """The console script that belongs to this Python."""
    script = Path(sys.executable).with_name("pgmig-cli")
    return [str(script)] if script.exists() else [sys.executable, "-P", "-m", "clients"]


@dataclass(frozen=True, slots=True)
class Cli:
    """One user's terminal. environment: all variables, including credentials."""

    environment: Mapping[str, str] = field(repr=False)

    @classmethod
    def on(cls, source_uri: str, dest_uri: str, state_dir: Path, **variables: str) -> Self:
        return cls(
            clean_environment(
                PGMIG_SOURCE_URI=source_uri,
                PGMIG_DEST_URI=dest_uri,
                PGMIG_STATE_DIR=str(state_dir),
                **variables,
            )
        )

    def run(self, *arguments: str, timeout: float = COMMAND_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. The caller checks the exit code."""
        return subprocess.run(
            launch_argv([*program(), *arguments], None, signal.SIGTERM),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            start_new_session=True,
        )

    def start(self, *arguments: str, log: Path) -> Staying:
        """Start a command that stays with a migration. log: where its stderr goes."""
        return Staying([*program(), *arguments, "--output", "json"], self.environment, log)


class Staying:
    """`clone` or `follow`, watched through its JSON lines; ended by SIGTERM with the block.

    Create it in a thread that lives as long as the process: the kernel ends the child when the thread ends.
    """

    def __init__(self, argv: list[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        self._views: queue.SimpleQueue[MigrationView | None] = queue.SimpleQueue()
        self.last: MigrationView | None = None
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                launch_argv(argv, None, signal.SIGTERM),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            with self._process.stdout as lines:
                for line in lines:
                    self._views.put(view_from_json(json.loads(line)))
        finally:
            self._views.put(None)

    def next(self, timeout: float) -> MigrationView | None:
        """The next view; None if none arrived in time. Raises RuntimeError if the command ended."""
        try:
            view = self._views.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return None
        if view is None:
            self._views.put(None)
            raise RuntimeError(f"pgmig-cli ended with {self._process.wait()}:\n{tail(self._log)}")
        self.last = view
        return view

    def until(self, condition: Callable[[MigrationView], bool], timeout: float) -> MigrationView:
        """The next view that meets `condition`. Raises TimeoutError, or as `next`."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            view = self.next(left)
            if view is not None and condition(view):
                return view
        raise TimeoutError(f"not within {timeout:g} s; the last view was {self.last}")

    def wait(self, timeout: float = STOP_TIMEOUT_S) -> int:
        """The exit code, after it has ended by itself. Raises subprocess.TimeoutExpired."""
        code = self._process.wait(timeout)
        self._reader.join()
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, and SIGKILL if that takes too long. Returns the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self.wait()
