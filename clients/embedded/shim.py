"""Become a child that does not outlive its parent; run as a script: PARENT_PID SIGNAL COMMAND...

A program of its own rather than a preexec_fn, which would run Python between fork and exec of a
process that has gRPC's threads. PR_SET_PDEATHSIG survives exec (prctl(2)).
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int, death_signal: int) -> None:
    """Have the kernel send us the signal when process `parent` dies; send it ourselves if it has already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:  # died before the kernel had been asked
        os.kill(os.getpid(), death_signal)


def main(arguments: list[str]) -> None:
    command = arguments[2:]
    os.umask(0o077)  # whatever it creates is the user's alone
    end_with_parent(int(arguments[0]), int(arguments[1]))
    os.execv(command[0], command)  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    main(sys.argv[1:])
