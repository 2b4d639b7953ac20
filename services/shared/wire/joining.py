"""A message that comes in fragments, while it is joined.

Up to SPOOLED bytes it is joined in memory. A larger one goes into a file without a name, which is
mapped when it is whole: who reads the view has in memory what was looked at, and may give even that back
(`mmap.madvise`), because the file still has it. The file lies where `tempfile` puts files (TMPDIR)
and is gone with its last view.
"""

from __future__ import annotations

import mmap
import tempfile
import weakref
from typing import Protocol

from services.shared.model import ErrorKind, PgmigError

LARGE = 1 << 20
"""Bytes; a message beyond it is not copied again: it is a view."""
SPOOLED = 8 << 20
"""Bytes; a message beyond it is joined in a file."""


class Joining(Protocol):
    """missing: how many bytes are not there yet."""

    missing: int

    def append(self, data: memoryview) -> None:
        """`data` is not longer than what is missing. Raises PgmigError(TRANSIENT)."""

    def message(self) -> bytes | memoryview:
        """To be called once, when nothing is missing."""


def joining(length: int) -> Joining:
    """For a message of `length` bytes."""
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
        self._close = weakref.finalize(self, self._file.close)  # also when it is given up half way

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
