"""Folders of servers, not below the tests' own: an unprivileged user must reach them, and paths are short.

The data of a server that need not outlive the machine is kept in memory if there is room: to create a
database there costs a tenth of the CPU time that it costs on a disk's file system. Such a folder would
occupy memory for ever if its process were killed, so the next process removes it.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path

import psutil

from tests.support.servers.process import Account, run

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 6 << 30
"""As much must be free. Two test processes together have needed 0.4 GB, with the largest values copied."""


def scratch_dir(prefix: str, account: Account | None, *, in_memory: bool = False) -> Path:
    """A new folder that belongs to `account` and that it can reach, in memory if there is room.

    It contains socket files, whose path may have at most 107 bytes, so it is not below a test's folder.
    """
    parents = [tempfile.gettempdir(), "/tmp", "/var/tmp"]
    if in_memory and _has_room(_MEMORY):
        prefix = f"{prefix}{os.getpid()}-"
        _remove_abandoned(_MEMORY)
        parents.insert(0, str(_MEMORY))
    for parent in parents:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        if account is None:
            return path
        os.chown(path, account.uid, account.gid)
        if len(str(path)) < 80 and run(["/usr/bin/env", "test", "-w", path], account=account).returncode == 0:
            return path
        path.rmdir()
    raise RuntimeError("no temporary folder that an unprivileged user can reach")


def _has_room(folder: Path) -> bool:
    if not os.access(folder, os.W_OK):
        return False
    return min(psutil.disk_usage(str(folder)).free, psutil.virtual_memory().available) >= _ROOM_BYTES


@functools.cache
def _remove_abandoned(folder: Path) -> None:
    """Remove the folders of processes that have ended without doing so."""
    for path in folder.glob("pgmig-*-*-*"):
        pid = path.name.split("-")[2]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
