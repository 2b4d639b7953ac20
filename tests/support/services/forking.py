"""Services as forks of a process that has imported them, as in an embedded stack.

Importing a service takes half a second of one core, and tests start about a thousand services. The fork
server is that of the embedded stack. Each test process has one, from the first service that it starts.
The fork server ends with the test process, and its services end with it.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from clients.embedded import prestart

ROLES = ("coordinator", "decoder", "copier", "applier")
START_TIMEOUT_S = 60.0


class Forked:
    """One process, with the methods of `subprocess.Popen` that tests need."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.error = ""
        self.answered = threading.Event()
        self.ended = threading.Event()
        self._status: int | None = None

    def end(self, status: int) -> None:
        self._status = status
        self.ended.set()

    def poll(self) -> int | None:
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, or minus the signal. Raises subprocess.TimeoutExpired."""
        if not self.ended.wait(timeout):
            raise subprocess.TimeoutExpired(self.name, timeout or 0.0)
        assert self._status is not None
        return self._status

    def send_signal(self, number: int) -> None:
        if not self.ended.is_set():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Forks are requested one after the other: the caller waits until the process runs."""

    def __init__(self) -> None:
        self._spawned = prestart.Spawned([prestart.service_module(role) for role in ROLES])
        nothing = os.open(os.devnull, os.O_RDWR)
        self._spawned.hand_over(nothing, nothing)
        os.close(nothing)
        self._asking = threading.Lock()
        self._asked: Forked | None = None
        self._running: dict[int, Forked] = {}
        threading.Thread(target=self._read, name="fork-server", daemon=True).start()
        atexit.register(self._spawned.end)

    @property
    def pid(self) -> int:
        return self._spawned.process.pid

    def fork(self, name: str, role: str, env: Mapping[str, str], log: Path) -> Forked:
        """The service of a role. Raises RuntimeError."""
        request = {"name": name, "module": prestart.service_module(role), "env": dict(env), "log": str(log)}
        with self._asking:
            asked = self._asked = Forked(name)
            self._spawned.socket.sendall(json.dumps(request).encode() + b"\n")
            if not asked.answered.wait(START_TIMEOUT_S) or asked.error:
                raise RuntimeError(f"{name} cannot be forked: {asked.error or 'no answer'}")
        return asked

    def _read(self) -> None:
        with self._spawned.socket.makefile("rb") as answers:
            for line in answers:
                answer = json.loads(line)
                if "status" in answer:
                    self._running.pop(answer["pid"]).end(answer["status"])
                elif (asked := self._asked) is not None:
                    asked.pid, asked.error = answer.get("pid", 0), answer.get("error", "")
                    if asked.pid:
                        self._running[asked.pid] = asked
                    asked.answered.set()
        for forked in self._running.values():  # the fork server has ended, and its services with it
            forked.end(-signal.SIGKILL)


@cache
def fork_server() -> ForkServer:
    """The fork server of this test process."""
    return ForkServer()
