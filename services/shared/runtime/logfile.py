"""A log file that a process writes all its output to, bounded while it runs.

The file is what standard output and standard error are connected to, so that also what libraries and
the interpreter print goes there. A handler looks at its size after each line. When it has grown beyond
the limit it is moved to `<name>.1`, in place of the one before, and both outputs go to a new file. No line
is lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

from services.shared.runtime.files import open_private

LIMIT = 16 * 1024 * 1024
"""Bytes of one file. There are two at most."""
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
_STDOUT, _STDERR = 1, 2


def put_aside(path: Path) -> None:
    """Move a log to `<name>.1`."""
    path.replace(path.with_name(path.name + ".1"))


def connect_outputs(path: Path) -> None:
    """Have standard output and standard error append to `path`. Raises OSError."""
    fd = open_private(path, APPEND)
    try:
        os.dup2(fd, _STDOUT)
        os.dup2(fd, _STDERR)
    finally:
        os.close(fd)


class OutputFileHandler(logging.StreamHandler[TextIO]):
    """Writes to standard error, which it has connected to `path`."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        super().__init__(sys.stderr)
        self._path = path
        self._limit = limit
        connect_outputs(path)

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        with contextlib.suppress(OSError):  # a log that cannot be moved goes on growing
            if os.fstat(_STDERR).st_size > self._limit:
                put_aside(self._path)
                connect_outputs(self._path)


class PrivateFileHandler(RotatingFileHandler):
    """Writes to a file of its own, within the same bounds."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        super().__init__(path, maxBytes=limit, backupCount=1, encoding="utf-8")

    def _open(self) -> TextIO:  # type: ignore[override]
        return os.fdopen(open_private(self.baseFilename, APPEND), "a", encoding="utf-8")
