"""Reading the logs of an embedded stack: whole lines from an offset, or the end.

Of a line that is longer than CHUNK, only the beginning is read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from services.shared.model import ErrorKind, PgmigError
from services.shared.model.redaction import redact

CHUNK = 64 << 10
"""Bytes that one answer reads at most."""


@dataclass(frozen=True, slots=True)
class LogSize:
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class LogLines:
    """offset: of the first line, in bytes. next_offset: where the next lines will begin."""

    name: str
    offset: int
    next_offset: int
    lines: tuple[str, ...]


def sizes(logs: dict[str, Path]) -> tuple[LogSize, ...]:
    return tuple(LogSize(name, path.stat().st_size) for name, path in logs.items() if path.is_file())


def read(logs: dict[str, Path], name: str, offset: int | None) -> LogLines:
    """offset: None for the last lines. An offset beyond the end begins a file that has replaced the earlier
    one.

    Raises PgmigError(NOT_FOUND)."""
    if name not in logs:
        known = (
            f"the logs here are {', '.join(logs)}"
            if logs
            else "the services keep their logs on their own hosts"
        )
        raise PgmigError(ErrorKind.NOT_FOUND, f"there is no log {name[:60]!r}", known)
    try:
        fd = os.open(logs[name], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise PgmigError(ErrorKind.NOT_FOUND, f"the log {name} cannot be read: {exc.strerror}") from exc
    with os.fdopen(fd, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        begin = _begin(size, offset)
        file.seek(max(0, begin - 1))
        data = file.read(CHUNK + min(1, begin))
    if begin > 0:  # not with a half line, of which a password could be shown without its name
        cut = data.find(b"\n") + 1
        begin, data = begin - 1 + (cut or len(data)), data[cut or len(data) :]
    end = data.rfind(b"\n") + 1
    if not end and len(data) == CHUNK:  # one line that is longer
        end = CHUNK
    text = data[:end].decode("utf-8", "replace")
    return LogLines(name, begin, begin + end, tuple(redact(line) for line in text.splitlines()))


def _begin(size: int, offset: int | None) -> int:
    if offset is None:
        return max(0, size - CHUNK)
    return offset if offset <= size else 0
