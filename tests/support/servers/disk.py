"""Disks that a test can fill and empty.

`SmallDisk` is a separate file system, so the kernel itself reports "No space left on device". It needs root,
and a machine on which root may mount. `SaidToBeFull` works on every machine: it is a constraint of the
destination's tables that raises the error of a server with a full disk.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import psycopg
from psycopg import sql

from tests.support.servers.folders import scratch_dir
from tests.support.servers.process import unprivileged_account
from tests.support.switchover.guarded import ASKS_TO_WRITE

_BALLAST = "ballast"
_LOCK = 53100


class Disk(Protocol):
    def fill(self) -> None:
        """Fill the disk: from now on nothing can be added."""

    def make_room(self) -> None: ...


class CannotMountError(Exception):
    """File systems cannot be mounted here; the message says why."""


class SmallDisk:
    """A file system of `size` bytes to which a test server may write; use as a context manager.

    path: where; by default a new folder. Raises CannotMountError.
    """

    def __init__(self, size: int, path: Path | None = None) -> None:
        self._size = size
        self._own = path is None
        self._path = path

    @property
    def path(self) -> Path:
        assert self._path is not None
        return self._path

    def __enter__(self) -> Self:
        account = unprivileged_account()
        if account is None:
            raise CannotMountError("mounting a small file system takes root")
        self._path = self._path or scratch_dir("pgmig-disk-", account)
        options = f"size={self._size},uid={account.uid},gid={account.gid},mode=700"
        command = ["mount", "-t", "tmpfs", "-o", options, "pgmig-test", str(self.path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as exc:
            self._remove_folder()
            raise CannotMountError("there is no program mount") from exc
        if done.returncode:
            self._remove_folder()
            raise CannotMountError(f"this machine does not let root mount: {done.stderr.strip()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self._own:
            shutil.rmtree(self.path, ignore_errors=True)

    def fill(self) -> None:
        """A transaction that has just failed may give room back meanwhile."""
        with (self.path / _BALLAST).open("ab", buffering=0) as file:
            while shutil.disk_usage(self.path).free:
                for size in (1 << 20, 1 << 12, 1):
                    with suppress(OSError):  # ENOSPC ends it
                        while file.write(bytes(size)) == size:
                            pass

    def make_room(self) -> None:
        (self.path / _BALLAST).unlink()


class SaidToBeFull:
    """Inserts into one table of the database `uri` fail with a full disk after `attach` was called."""

    def __init__(self, uri: str, table: str) -> None:
        self._conn = psycopg.connect(uri, autocommit=True, options=ASKS_TO_WRITE)
        self._table = sql.Identifier(*table.split("."))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._conn.close()

    def attach(self) -> None:
        self._conn.execute(
            sql.SQL(
                "CREATE FUNCTION public.there_is_room() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN"
                " IF pg_catalog.pg_try_advisory_xact_lock_shared({lock}) THEN RETURN true; END IF;"
                " RAISE EXCEPTION 'could not extend file \"base/1/2\": No space left on device'"
                " USING ERRCODE = 'disk_full'; END $$"
            ).format(lock=sql.Literal(_LOCK))
        )
        self._conn.execute(
            sql.SQL("ALTER TABLE {} ADD CONSTRAINT room CHECK (public.there_is_room()) NOT VALID").format(
                self._table
            )
        )

    def detach(self) -> None:
        self._conn.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT room").format(self._table))
        self._conn.execute("DROP FUNCTION public.there_is_room()")

    def fill(self) -> None:
        self._conn.execute("SELECT pg_advisory_lock(%s)", [_LOCK])

    def make_room(self) -> None:
        self._conn.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])
