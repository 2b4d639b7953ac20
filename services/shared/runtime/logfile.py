"""A log file for all output of a process. Its size is bounded while the process runs.

Standard output and standard error are connected to the file, so that it also receives what libraries and
the interpreter print. A handler checks its size after each line. When the file exceeds the limit, it is
renamed to `<name>.1`, which replaces the previous one, and both outputs are connected to a new file. No
line is lost.
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
"""Bytes of one file. There are at most two."""
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
_STDOUT, _STDERR = 1, 2


def put_aside(path: Path) -> None:
    """Rename a log to `<name>.1`."""
    path.replace(path.with_name(path.name + ".1"))


def connect_outputs(path: Path) -> None:
    """Append standard output and standard error to `path`. Raises OSError."""
    fd = open_private(path, APPEND)
    try:
        os.dup2(fd, _STDOUT)
        os.dup2(fd, _STDERR)
    finally:
        os.close(fd)


class OutputFileHandler(logging.StreamHandler[TextIO]):
    """Writes to standard error, after connecting it to `path`."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        super().__init__(sys.stderr)
        self._path = path
        self._limit = limit
        connect_outputs(path)

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        with contextlib.suppress(OSError):  # a log that cannot be renamed continues to grow
            if os.fstat(_STDERR).st_size > self._limit:
                put_aside(self._path)
                connect_outputs(self._path)


class PrivateFileHandler(RotatingFileHandler):
    """Writes to its own file, with the same size limits."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        super().__init__(path, maxBytes=limit, backupCount=1, encoding="utf-8")

    def _open(self) -> TextIO:  # type: ignore[override]
        return os.fdopen(open_private(self.baseFilename, APPEND), "a", encoding="utf-8")
