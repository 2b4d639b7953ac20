"""`pgmig-cli clone --follow` in a container, watched through its JSON lines."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from types import TracebackType
from typing import Self

from tests.compose.project import ComposeProject

PHASE_TIMEOUT_S = 300
END_TIMEOUT_S = 60


class Clone:
    """Starts with the block; still running at its end, it is ended."""

    def __init__(self, project: ComposeProject, migration_id: str) -> None:
        clone = ["clone", "--follow", "--id", migration_id, "--output", "json"]
        self._argv = project.command("run", "--rm", "--no-TTY", "cli", *clone)
        self._environment = project.environment()
        self._phases: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._argv, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(END_TIMEOUT_S)

    def wait_for(self, phase: str) -> None:
        """Return at the next snapshot in `phase`, of which live writes cause many.

        Raises RuntimeError if the command ends before, queue.Empty if no snapshot comes for long.
        """
        old = self._phases.qsize()
        while (seen := self._phases.get(timeout=PHASE_TIMEOUT_S)) != phase or old > 0:
            old -= 1
            if not seen:
                raise RuntimeError(f"clone ended before phase {phase}")

    def wait_for_end(self) -> None:
        """Raises CalledProcessError unless the command ends with 0."""
        assert self._process is not None
        code = self._process.wait(END_TIMEOUT_S)
        if code != 0:
            raise subprocess.CalledProcessError(code, self._argv)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._phases.put(json.loads(line)["phase"])
        self._phases.put("")
