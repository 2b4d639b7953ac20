"""Where the embedded coordinator's socket is: in the migration's directory, or in a separate one.

The path of a Unix socket is limited to about a hundred bytes, and some file systems do not support sockets.
If the migration's directory cannot hold the socket, a new directory is created in the user's runtime
directory or in the system's directory for temporary files. It has mode 0700 and a random name, and its path
is in stack.json. It is removed with the stack, or after a kill by the next stack.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clients.embedded.local_state import MigrationDir
from services.shared.model import ErrorKind, PgmigError, fits_socket, socket_path, unix_address

NAME = "coordinator.sock"
_PREFIX = "pgmig-"


@contextmanager
def socket_place(directory: MigrationDir) -> Iterator[str]:
    """The address for the coordinator, for a block. Raises PgmigError(INVALID_ARGUMENT). The caller must hold
    the stack's lock."""
    _remove_earlier(directory)
    own = directory.path / NAME
    if _works(own):
        try:
            yield unix_address(own)
        finally:
            own.unlink(missing_ok=True)
        return
    folder = _short_directory()
    try:
        yield unix_address(folder / NAME)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _short_directory() -> Path:
    for base in filter(None, (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp")):  # noqa: S108
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))  # mode 0700
            if _works(folder / NAME):
                return folder
            folder.rmdir()
    raise PgmigError(
        ErrorKind.INVALID_ARGUMENT,
        "no directory was found in which a Unix socket can be made",
        "choose a short path with --state-dir, or set TMPDIR or XDG_RUNTIME_DIR",
    )


def _works(path: Path) -> bool:
    """Whether a socket can be created there. A socket left by another process is removed."""
    if not fits_socket(path):
        return False
    try:
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(path))
        path.unlink()
    except OSError:
        return False
    return True


def _remove_earlier(directory: MigrationDir) -> None:
    """Remove the directory that a killed stack of this user has left."""
    earlier = directory.recorded_stack()
    path = socket_path(earlier.coordinator) if earlier is not None else None
    if path is None or path.parent == directory.path or not path.parent.name.startswith(_PREFIX):
        return
    with contextlib.suppress(OSError):
        found = path.parent.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            path.unlink(missing_ok=True)
            path.parent.rmdir()
