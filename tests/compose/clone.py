"""`pgmig-cli clone --follow` in a container, watched through its JSON lines."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from types import TracebackType
from typing import Self

from services.shared.model import MigrationView, Phase
from services.shared.model.view.jsonview import view_from_json
from tests.compose.project import ComposeProject

SNAPSHOT_TIMEOUT_S = 120
MAX_LAG_S = 1.0
END_TIMEOUT_S = 60


class Clone:
    """Starts with the block; still running at its end, it is ended."""

    def __init__(self, project: ComposeProject, migration_id: str) -> None:
        clone = ["clone", "--follow", "--id", migration_id, "--output", "json"]
        self._argv = project.command("run", "--rm", "--no-TTY", "cli", *clone)
        self._environment = project.environment()
        self._views: queue.SimpleQueue[MigrationView | None] = queue.SimpleQueue()
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

    def wait_until_in_step(self) -> None:
        """Return at the next snapshot that streams with next to no lag; live writes cause many.

        Raises RuntimeError if the command ends before, queue.Empty if no snapshot comes for long.
        """
        for _ in range(self._views.qsize()):
            self._next()
        while not in_step(self._next()):
            pass

    def wait_for_end(self) -> None:
        """Raises CalledProcessError unless the command ends with 0."""
        assert self._process is not None
        code = self._process.wait(END_TIMEOUT_S)
        if code != 0:
            raise subprocess.CalledProcessError(code, self._argv)

    def _next(self) -> MigrationView:
        view = self._views.get(timeout=SNAPSHOT_TIMEOUT_S)
        if view is None:
            raise RuntimeError("clone ended before its time")
        return view

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._views.put(view_from_json(json.loads(line)))
        self._views.put(None)


def in_step(view: MigrationView) -> bool:
    """Whether a switchover would be quick: both ends of the stream at work, and little to do."""
    working = {worker.role for worker in view.workers if not worker.lost}
    return (
        view.phase is Phase.STREAMING
        and {"decoder", "applier"} <= working
        and view.positions.lag_seconds < MAX_LAG_S
    )
