"""The log files of children: appended to, private, bounded."""

from __future__ import annotations

import os
from pathlib import Path

LIMIT = 16 * 1024 * 1024
"""A larger log, in bytes, is moved to `<name>.log.1` before the child starts."""


def open_log(path: str | Path) -> int:
    """A file descriptor to append to `path` (made with mode 0600)."""
    path = Path(path)
    if path.exists() and path.stat().st_size > LIMIT:
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def last_line(path: Path) -> str:
    """The last line of a log that says something, shortened; "" when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
