"""Ending together with the parent process, for children that must not outlive it.

With PGMIG_EXIT_WITH_PARENT=1 a service drains and stops when its parent ends, even by kill -9. The
service sees that the pipe on its stdin is closed, which works on every system; on Linux the kernel also
sends it SIGTERM. (PR_SET_PDEATHSIG takes effect when the *thread* that started the child ends. Start
such children from a thread that lives as long as the process. prctl(2).)
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import stat
import sys
from collections.abc import Callable

log = logging.getLogger(__name__)

VARIABLE = "PGMIG_EXIT_WITH_PARENT"
_PR_SET_PDEATHSIG = 1


def wanted() -> bool:
    return os.environ.get(VARIABLE) == "1"


def ask_for_death_signal() -> None:
    """Request SIGTERM when the parent dies. Linux only; other systems rely on stdin."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        log.warning("prctl(PR_SET_PDEATHSIG): %s", os.strerror(ctypes.get_errno()))


def watch_stdin(gone: Callable[[], None]) -> None:
    """Call `gone` once when the pipe on stdin is closed. If stdin is not a pipe, do nothing.

    Data from the pipe is discarded.
    """
    fd = sys.stdin.fileno() if sys.stdin is not None else -1
    if fd < 0 or not _is_pipe(fd):
        return
    loop = asyncio.get_running_loop()

    def readable() -> None:
        try:
            still_open = bool(os.read(fd, 4096))
        except OSError:
            still_open = False
        if not still_open:
            loop.remove_reader(fd)
            gone()

    loop.add_reader(fd, readable)


def _is_pipe(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
