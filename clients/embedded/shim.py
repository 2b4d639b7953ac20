"""Become a child that does not outlive its parent. Run as a script: PARENT_PID SIGNAL COMMAND...

This is a separate program and not a preexec_fn, which would run Python between fork and exec of a
process that has gRPC's threads. PR_SET_PDEATHSIG survives exec (prctl(2)).
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int, death_signal: int) -> None:
    """Have the kernel send us the signal when process `parent` dies. If it is dead already, send it here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:  # it died before prctl was called
        os.kill(os.getpid(), death_signal)


def main(arguments: list[str]) -> None:
    command = arguments[2:]
    os.umask(0o077)  # only the user can access the files that it creates
    end_with_parent(int(arguments[0]), int(arguments[1]))
    os.execv(command[0], command)  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    main(sys.argv[1:])
