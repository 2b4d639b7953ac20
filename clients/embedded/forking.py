"""Services as forks of one process that has imported them: the client of `forkserver`.

The fork server is started when it is first needed, and again after it has died. Its services end with
it: their exit status is lost, and the kernel sends them a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clients.embedded import prestart
from clients.embedded.child import Child, Program, Ties
from clients.embedded.logfile import last_line, open_log
from services.shared.model import ErrorKind, PgmigError


class Forked:
    """A process that the fork server has started, and whose end it reports."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    def terminate(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGTERM)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def ended(self, status: int) -> None:
        self.returncode = status
        self._ended.set()


class ForkServer:
    """modules: what the server imports. log_file: where it logs its own problems."""

    def __init__(self, modules: Sequence[str], log_file: Path, ties: Ties) -> None:
        self._modules = modules
        self._log_file = log_file
        self._ties = ties
        self._server: _Server | None = None
        self._starting = asyncio.Lock()

    async def warm_up(self) -> None:
        """Start a server that imports in the background. Raises PgmigError(INTERNAL)."""
        async with self._starting:
            if self._server is not None and not self._server.running:
                await self.close()
            if self._server is None:
                self._server = await _Server.start(self._modules, self._log_file, self._ties)

    async def start(self, program: Program, log_file: Path) -> Child:
        """Start a program that is a module. Raises PgmigError(INTERNAL)."""
        await self.warm_up()
        assert self._server is not None
        return Child(program, await self._server.fork(program, log_file))

    async def close(self) -> None:
        """End the server, and all its forked processes that still run."""
        server, self._server = self._server, None
        if server is not None:
            await server.close()


class _Server:
    """One process of the fork server, from its start to its end."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        answers: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
        log_file: Path,
    ) -> None:
        self._process = process
        self._answers = answers
        self._requests = requests
        self._log_file = log_file
        self._asked: dict[str, asyncio.Future[Forked]] = {}
        self._forked: dict[int, Forked] = {}
        self._reading = asyncio.create_task(self._read(), name="fork-server")

    @classmethod
    async def start(cls, modules: Sequence[str], log_file: Path, ties: Ties) -> _Server:
        """Use the server that was started early, unless it was used already."""
        log = open_log(log_file)
        try:
            spawned = prestart.take() or prestart.Spawned(modules)
            try:
                spawned.hand_over(ties.stdin, log, *ties.kept)
            except OSError:  # the server that was started early has died in the meantime
                spawned.end()
                spawned = prestart.Spawned(modules)
                spawned.hand_over(ties.stdin, log, *ties.kept)
        except OSError as exc:
            raise PgmigError(ErrorKind.INTERNAL, f"cannot start Python: {exc.strerror or exc}") from exc
        finally:
            os.close(log)
        answers, requests = await asyncio.open_unix_connection(sock=spawned.socket)
        return cls(spawned.process, answers, requests, log_file)

    @property
    def running(self) -> bool:
        return not self._reading.done()

    async def fork(self, program: Program, log_file: Path) -> Forked:
        asked: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        self._asked[program.name] = asked
        self._send(
            {
                "name": program.name,
                "module": program.module,
                "env": dict(program.env),
                "log": str(log_file),
            }
        )
        return await asked

    def _send(self, request: dict[str, Any]) -> None:
        """Buffered, because the server reads between two imports. `_read` handles a dead server."""
        self._requests.write(json.dumps(request).encode() + b"\n")

    async def _read(self) -> None:
        try:
            async for line in self._answers:
                self._answered(json.loads(line))
        except ConnectionError:
            pass
        finally:
            self._lost()

    def _answered(self, answer: dict[str, Any]) -> None:
        if "error" in answer:
            refused = self._asked.pop(answer["name"])
            if not refused.done():
                refused.set_exception(
                    PgmigError(ErrorKind.INTERNAL, f"cannot start {answer['name']}: {answer['error']}")
                )
            return
        pid = answer["pid"]
        if "status" in answer:
            self._forked.pop(pid).ended(answer["status"])
            return
        forked = self._forked[pid] = Forked(pid)
        asked = self._asked.pop(answer["name"])
        if not asked.cancelled():
            asked.set_result(forked)

    def _lost(self) -> None:
        """The server has ended. Nobody would report the end of its processes, so kill them now."""
        for pid, forked in self._forked.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            forked.ended(-signal.SIGKILL)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(self._did_not_start())

    def _did_not_start(self) -> PgmigError:
        return PgmigError(
            ErrorKind.INTERNAL,
            f"the services did not start: {last_line(self._log_file)}",
            f"see {self._log_file}",
        )

    async def close(self) -> None:
        """Kill the server, which has nothing to clean up."""
        self._process.kill()
        await asyncio.wait({self._reading})
        self._requests.close()
        await asyncio.to_thread(self._process.wait)
