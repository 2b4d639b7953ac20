"""A message that arrives in fragments and is joined.

A message of up to SPOOLED bytes is joined in memory. A larger one is joined in an unnamed file, which is
memory-mapped when it is complete. A reader of the view needs memory only for what it has read, and can
free even that (`mmap.madvise`), because the data remains in the file. The file is created where `tempfile`
creates files (TMPDIR), and is deleted with its last view.
"""

from __future__ import annotations

import mmap
import tempfile
import weakref
from typing import Protocol

from services.shared.model import ErrorKind, PgmigError

LARGE = 1 << 20
"""Bytes; a larger message is not copied again but returned as a view."""
SPOOLED = 8 << 20
"""Bytes; a larger message is joined in a file."""


class Joining(Protocol):
    """missing: how many bytes have not arrived yet."""

    missing: int

    def append(self, data: memoryview) -> None:
        """`data` is not longer than what is missing. Raises PgmigError(TRANSIENT)."""

    def message(self) -> bytes | memoryview:
        """Call it once, when nothing is missing."""


def joining(length: int) -> Joining:
    """Returns a `Joining` for a message of `length` bytes."""
    return _InMemory(length) if length <= SPOOLED else _InFile(length)


class _InMemory:
    def __init__(self, length: int) -> None:
        self.missing = length
        self._data = bytearray(length)

    def append(self, data: memoryview) -> None:
        at = len(self._data) - self.missing
        self._data[at : at + len(data)] = data
        self.missing -= len(data)

    def message(self) -> bytes | memoryview:
        return memoryview(self._data).toreadonly() if len(self._data) > LARGE else bytes(self._data)


class _InFile:
    def __init__(self, length: int) -> None:
        self.missing = self._length = length
        try:
            self._file = tempfile.TemporaryFile(prefix="pgmig-", buffering=0)  # noqa: SIM115 - closed below
        except OSError as exc:
            raise _no_room(length, exc) from exc
        self._close = weakref.finalize(self, self._file.close)  # also if the message is never completed

    def append(self, data: memoryview) -> None:
        self.missing -= len(data)
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as exc:
            raise _no_room(self._length, exc) from exc

    def message(self) -> memoryview:
        view = memoryview(mmap.mmap(self._file.fileno(), self._length, access=mmap.ACCESS_READ))
        self._close()
        return view


def _no_room(length: int, exc: OSError) -> PgmigError:
    return PgmigError(
        ErrorKind.TRANSIENT,
        f"a row of {length >> 20} MB cannot be kept in a file: {exc.strerror}",
        "make room in the applier's directory for temporary files, or name another with TMPDIR",
    )
