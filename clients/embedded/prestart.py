"""The fork server's process, started before the command knows that it needs one.

Importing the services takes longer than the command's own work. So `clone` starts the
server before it imports anything else or reads its options. If nobody uses the server, it ends
with this process, and the wrong guess costs a third of a second of one core.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

_COMMAND = (sys.executable, "-P", "-m", "clients.embedded.forkserver")
_IMPORTING = "PGMIG_PURE_PYTHON"
"""The only setting of ours that importing depends on. Others may be secrets."""


def service_module(role: str) -> str:
    """The module whose main() is the service."""
    return f"services.{role}.__main__"


def can_fork() -> bool:
    """Only on Linux: on other systems the system libraries do not allow a fork without exec."""
    return sys.platform == "linux"


class Spawned:
    """A fork server that imports `modules`. socket: our end of the connection to it."""

    def __init__(self, modules: Sequence[str]) -> None:
        """Raises OSError."""
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                _COMMAND,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,
            )
        self.socket.sendall(json.dumps({"import": list(modules)}).encode() + b"\n")

    def hand_over(self, *files: int) -> None:
        """Send the files that it holds open from now on: its standard input, its log, and others."""
        socket.send_fds(self.socket, [b"\n"], files)

    def end(self) -> None:
        """Kill a server that is not needed, or that has died."""
        self.process.kill()
        self.process.wait()
        self.socket.close()


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PGMIG_") or k == _IMPORTING}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def likely(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether a command with these arguments will probably run a stack."""
    elsewhere = any(one.partition("=")[0] in {"--coordinator", "-h", "--help"} for one in arguments)
    return (
        can_fork() and arguments[:1] == ["clone"] and not elsewhere and not environ.get("PGMIG_COORDINATOR")
    )


_begun: list[Spawned] = []


def begin(modules: Sequence[str]) -> None:
    with contextlib.suppress(OSError):  # a caller that needs the server reports the error
        _begun.append(Spawned(modules))


def take() -> Spawned | None:
    """The server that was started, if it has not been used yet."""
    return _begun.pop() if _begun else None


def forget() -> None:
    """End the server if nobody has used it."""
    spawned = take()
    if spawned is not None:
        spawned.end()
