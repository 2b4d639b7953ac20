"""The log files of children: appended to, private, of limited size."""

from __future__ import annotations

import os
from pathlib import Path

from services.shared.runtime.files import open_private
from services.shared.runtime.logfile import APPEND, LIMIT, put_aside


def open_log(path: str | Path) -> int:
    """A file descriptor to append to `path` (mode 0600). Services limit their log while they run. If another
    program's log is too large, it is renamed before the next start."""
    path = Path(path)
    fd = open_private(path, APPEND)
    if path.stat().st_size <= LIMIT:
        return fd
    os.close(fd)
    put_aside(path)
    return open_private(path, APPEND)


def last_line(path: Path) -> str:
    """The last line of a log that is not empty, shortened; "" if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
