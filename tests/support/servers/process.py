"""Child processes of the tests: they run without root and die with the process that started them.

A child is started through a launcher, a few lines of Python that drop root, ask the kernel for a
signal when the parent dies (PR_SET_PDEATHSIG) and exec the program, so that the pid stays the same.
`preexec_fn` is not used, because running Python between fork and exec is unsafe if there are other threads.

The kernel counts the *thread* that forked as the parent. Long-lived children are therefore started
from one thread that lives as long as the process, for all callers.
"""

from __future__ import annotations

import os
import pwd
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_LAUNCHER = """
import ctypes, os, sys
parent, death_signal, uid, gid = map(int, sys.argv[1:5])
if uid >= 0:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
if os.getppid() == parent:  # else it died before prctl
    os.execv(sys.argv[5], sys.argv[5:])
"""

_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lab-spawner")


@dataclass(frozen=True, slots=True)
class Account:
    """A user that a child runs as instead of root."""

    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """The account that PostgreSQL runs as. None: this process's own. PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def launch_argv(argv: Sequence[str | Path], account: Account | None, death_signal: int) -> list[str]:
    """`argv` with the launcher in front; argv[0] is the program's path."""
    ids = (account.uid, account.gid) if account else (-1, -1)
    numbers = [str(n) for n in (os.getpid(), death_signal, *ids)]
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, *numbers, *map(str, argv)]


def spawn(
    argv: Sequence[str | Path],
    *,
    account: Account | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: IO[bytes],
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a long-lived child that gets `death_signal` when this process dies.

    It is the leader of a session of its own, so a terminal's Ctrl-C does not reach it.
    """
    command = launch_argv(argv, account, death_signal)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    return _spawner.submit(start).result()


def run(
    argv: Sequence[str | Path],
    *,
    account: Account | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a short-lived child to its end; output is captured, and the caller checks the exit code."""
    command = launch_argv(argv, account, signal.SIGKILL)
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, for an error message."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


_drawn: set[int] = set()


def free_port() -> int:
    """A loopback port below the ephemeral range, which this process has not drawn before.

    A port in that range could be used by any outgoing connection while its server is down,
    even by the client that tries to reconnect to it. Each worker of pytest-xdist draws from ports of
    its own, so that no other worker starts a server on a port whose server is down for a moment.
    """
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range")
    ceiling = int(ephemeral.read_text().split()[0]) if ephemeral.exists() else 32768
    ports = range(min(15000, ceiling - 1000), ceiling)[_xdist_worker() :: _xdist_workers()]
    for port in random.sample(ports, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _drawn:
            _drawn.add(port)
            return port
    raise RuntimeError("no free loopback port found")


def _xdist_workers() -> int:
    return int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def _xdist_worker() -> int:
    """This worker's number, from 0 on; one that replaces a crashed worker shares another's number."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _xdist_workers()
