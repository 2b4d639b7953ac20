"""One embedded stack for each migration: a lock that the whole stack holds.

The lock (flock(2)) belongs to an open file that the children inherit, so it is released only when
the CLI and every child have ended. After `kill -9` of the CLI its services still drain for some
seconds. A new stack waits for them, since two brokers must not use the same store.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from clients.embedded.local_state import MigrationDir
from services.shared.model import ErrorKind, PgmigError
from services.shared.runtime.files import open_private

WAIT_S = 30.0
"""How long to wait for the services of an earlier run to end; they need less time than this."""
_POLL_S = 0.1


@asynccontextmanager
async def only_stack(directory: MigrationDir, tell: Callable[[str], None]) -> AsyncIterator[int]:
    """Hold the lock for a block. Yields the file descriptor that the children inherit.

    Raises PgmigError(ALREADY_EXISTS) if another stack of the migration runs.
    """
    try:
        handle = open_private(directory.lock_file, os.O_RDWR | os.O_CREAT)
    except OSError as exc:
        raise directory.unusable(exc) from exc
    try:
        await _acquire(handle, directory, tell)
        yield handle
    finally:
        os.close(handle)


async def _acquire(handle: int, directory: MigrationDir, tell: Callable[[str], None]) -> None:
    deadline = time.monotonic() + WAIT_S
    waiting = False
    while not _try(handle):
        if directory.running_stack() is not None or time.monotonic() > deadline:
            raise _already_runs(directory)
        if not waiting:
            waiting = True
            tell("waiting for the services of an earlier run to end")
        await asyncio.sleep(_POLL_S)


def _try(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _already_runs(directory: MigrationDir) -> PgmigError:
    migration_id, stack = directory.migration_id, directory.running_stack()
    process = f" (process {stack.pid})" if stack else ""
    return PgmigError(
        ErrorKind.ALREADY_EXISTS,
        f"migration {migration_id} runs already on this machine{process}",
        f"look at it with `pgmig-cli watch --id {migration_id}`, or choose another --id",
    )
