"""What ps(1) shows of a forked process: the command line that would have executed it.

As PostgreSQL does for its backends, the arguments are overwritten where the kernel finds them
(proc(5), fields 48 and 49 of stat). Linux only.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path


def show_as(arguments: Sequence[str]) -> None:
    """Cut off where our own arguments were shorter."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    shown = b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
    ctypes.memmove(start, shown[: end - start - 1].ljust(end - start, b"\0"), end - start)
