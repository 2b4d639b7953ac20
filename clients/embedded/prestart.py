"""The process of the fork server, begun before the command knows for certain that it needs one.

What the services import takes longer than what the command itself does. So `clone` begins the
server first thing, before it imports anything or reads its options. Where nobody takes it, it ends
with this process, and a guess that was wrong has cost a third of a second of one core.
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
"""The one setting of ours that importing depends on; others may be secrets."""


def service_module(role: str) -> str:
    """Which module's main() is the service."""
    return f"services.{role}.__main__"


def can_fork() -> bool:
    """Elsewhere than on Linux, the system's own libraries do not bear a fork without exec."""
    return sys.platform == "linux"


class Spawned:
    """A fork server that imports `modules`. socket: our end of what connects us."""

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
        """What it holds open from now on: its standard input, its log, and others."""
        socket.send_fds(self.socket, [b"\n"], files)

    def end(self) -> None:
        """It is not needed, or has died."""
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
    with contextlib.suppress(OSError):  # who needs it will say so
        _begun.append(Spawned(modules))


def take() -> Spawned | None:
    """The one that was begun, if it is still there for somebody."""
    return _begun.pop() if _begun else None


def forget() -> None:
    """Nobody has taken it."""
    spawned = take()
    if spawned is not None:
        spawned.end()
