"""What ps(1) shows of a forked process: the command line with which it would have been executed.

As PostgreSQL does for its backends, the arguments are overwritten in the memory that the kernel shows
(proc(5), fields 48 and 49 of stat). Linux only.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_OVERWRITTEN = b"."
"""Written over the last byte of the arguments. It marks that the title ends where its own text ends."""


def show_as(arguments: Sequence[str]) -> None:
    """Show `arguments`, cut off if our own arguments were shorter."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    room = end - start - len(_OVERWRITTEN)
    title = os.fsencode(" ".join(arguments))[: room - 1].ljust(room, b"\0")
    ctypes.memmove(start, title + _OVERWRITTEN, end - start)
