"""Files and directories with access for their owner only, and files that are read while we write them.

Modes do not depend on the umask. If the last part of a path is a symbolic link, it is not followed, so
that nobody can redirect our writes.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path


def private_umask() -> None:
    """Give only the owner access to files created by this process and its children, also by libraries."""
    os.umask(0o077)


def open_private(path: str | Path, flags: int) -> int:
    """Open the regular file `path` with mode 0600 and return its descriptor. Raises OSError: ELOOP for a
    symbolic link, EPERM for a file of another user or a file with several hard links."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise OSError(
                errno.EPERM,
                "the file belongs to another user, has several links, or is not a regular file",
                str(path),
            )
        if stat.S_IMODE(found.st_mode) != 0o600:
            os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def private_directory(path: Path) -> None:
    """Make `path` a directory of ours with mode 0700. Raises OSError: ENOTDIR for a symbolic link, EPERM
    if it belongs to another user."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            raise OSError(errno.EPERM, "it belongs to another user", str(path))
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def replace_file(path: Path, content: str) -> None:
    """Replace `path` atomically: a reader sees the old or the new content, also after a crash.

    The file and any missing directories are created with access for their owner only. Raises OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # O_EXCL, O_NOFOLLOW, 0600
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
