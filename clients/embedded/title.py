"""What ps(1) shows of a forked process: the command line that would have executed it.

As PostgreSQL does for its backends, the arguments are overwritten where the kernel finds them
(proc(5), fields 48 and 49 of stat). Linux only.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_OVERWRITTEN = b"."
"""In place of the last argument's end, it says that a title ends where its own text does."""


def show_as(arguments: Sequence[str]) -> None:
    """Cut off where our own arguments were shorter."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    room = end - start - len(_OVERWRITTEN)
    title = os.fsencode(" ".join(arguments))[: room - 1].ljust(room, b"\0")
    ctypes.memmove(start, title + _OVERWRITTEN, end - start)
