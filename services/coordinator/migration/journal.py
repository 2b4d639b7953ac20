"""Saving a migration: in the key-value store and in the state file.

`save` is for changes that must not be lost. It returns when at least the file has them. While the broker
cannot be reached, it retries the store in the background. With strict, it fails unless the store has them
too. `decide` is for the decision of a switchover, which every later coordinator must find in the store.
It is written to the store first and takes effect after that.
Progress is written to the file only, some time after it changed. The more time a write takes, the longer
the pause before the next one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from pathlib import Path

from services.coordinator.migration.certificates import issued
from services.coordinator.migration.failpoints import Point, at_point
from services.coordinator.migration.outcome import Turn
from services.coordinator.migration.pace import pause
from services.coordinator.migration.record import mark_of, pack
from services.coordinator.migration.state import Migration
from services.coordinator.migration.state_file import write_state
from services.coordinator.migration.views import view_of
from services.shared.bus.store import StateStore
from services.shared.model import (
    ErrorKind,
    PgmigError,
    SwitchoverResult,
)
from services.shared.model.view.certificate import StoredCertificate
from services.shared.runtime.retry import retrying

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 2.0


class Journal:
    """The journal of one migration."""

    def __init__(self, store: StateStore, state_dir: Path, migration: Migration) -> None:
        self._store = store
        self._state_dir = state_dir
        self._migration = migration
        self._lock = asyncio.Lock()
        self._file_lock = asyncio.Lock()
        self._closed = False
        self._forgotten = False
        self._stored = 0
        self._written = 0
        self._behind = asyncio.Event()
        self._dirty = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Start saving progress in the background."""
        self._tasks = [
            asyncio.create_task(self._write_progress(), name="journal-file"),
            asyncio.create_task(self._catch_up_store(), name="journal-store"),
        ]

    async def close(self) -> None:
        """Stop saving progress. No file is written after this returns."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._file_lock:
            self._closed = True

    def progress(self) -> None:
        """Progress changed. It is saved later, and may be lost in a crash."""
        self._dirty.set()

    async def save(self, *, strict: bool = False) -> None:
        """Raises FENCED when another coordinator writes this migration, and INTERNAL when the state file
        cannot be written. strict: also raises BROKER when the store cannot be reached."""
        async with self._lock:
            await self._write()
            try:
                await self._put()
            except PgmigError as exc:
                if strict or not exc.policy.retry or exc.kind is ErrorKind.FENCED:
                    raise
                log.warning("state not in the store yet: %s", exc)
                self._behind.set()

    async def claim(self) -> None:
        """Save the current record in the store. It writes no file, because the disk may be full. Raises
        FENCED and BROKER."""
        async with self._lock:
            await self._put()

    async def confirm(self) -> None:
        """Put the record into the store once more, changed or not. Raises FENCED when another coordinator has
        taken the migration over, and BROKER."""
        async with self._lock:
            record = self._migration.record
            await self._store.save(record.migration_id, pack(record))
            self._stored = max(self._stored, record.revision)

    async def check_ours(self) -> PgmigError | None:
        """`confirm`, which returns BROKER instead of raising it: whether another coordinator has taken the
        migration over is not known then."""
        try:
            await self.confirm()
        except PgmigError as exc:
            if exc.kind is not ErrorKind.BROKER:
                raise
            return exc
        return None

    async def decide(
        self, result: SwitchoverResult, certificate: StoredCertificate | None = None, turn: Turn | None = None
    ) -> None:
        """Save the record with the decision in the store, then change it in memory. Raises WRONG_PHASE, and
        the errors of a strict `save`. After an error the record in memory is unchanged, but the store may
        have the decision until the next `save`. certificate: the draft, stored by the same write. turn: where
        the opposite direction starts."""
        async with self._lock:
            decided = self._migration.decided(result, certificate, turn)
            await self._store.save(decided.migration_id, pack(decided))
            await at_point(self._migration.operations.kind, Point.DECIDED)
            self._migration.switched_over(result, certificate, turn)

    async def issue(self) -> None:
        """Issue the certificate of a decided switchover, if that was not done: in the store, then in memory.
        So nobody sees a certificate that another coordinator might issue with other content. Raises FENCED
        and BROKER."""
        async with self._lock:
            record = self._migration.record
            later = issued(record)
            if later is record or self._forgotten:
                return
            later = replace(later, revision=record.revision + 1)
            await self._store.save(later.migration_id, pack(later))
            await at_point(self._migration.operations.kind, Point.ISSUED)
            self._migration.certificate_issued()

    async def forget(self) -> bool:
        """Delete the migration from the store, which is not written to after that. Returns whether it was
        there. Raises FENCED when another coordinator has taken the migration over, and BROKER.

        The record is replaced by nothing first, by compare-and-set: a coordinator that takes the migration
        over at the same time fails, or makes this fail.
        """
        async with self._lock:
            record = self._migration.record
            await self._store.save(record.migration_id, b"")
            removed = await self._store.delete(record.migration_id, mark_of(record))
            self._forgotten = True
        return removed

    async def _put(self) -> None:
        record = self._migration.record
        if record.revision > self._stored and not self._forgotten:
            await self._store.save(record.migration_id, pack(record))
            self._stored = record.revision

    async def _write(self) -> None:
        """Write the state file. A cancelled caller does not cancel the write, because the thread could finish
        an older write after a newer one."""
        writing = asyncio.create_task(self._write_file(), name="state-file")
        await asyncio.shield(writing)

    async def _write_file(self) -> None:
        async with self._file_lock:
            record, view = self._migration.record, view_of(self._migration)
            if record.revision <= self._written or self._closed:
                return
            try:
                await asyncio.to_thread(write_state, self._state_dir, record, view)
            except OSError as exc:
                raise PgmigError(
                    ErrorKind.INTERNAL,
                    f"the state file in {self._state_dir} cannot be written: {exc}",
                    "make room and check the folder's permissions (PGMIG_STATE_DIR)",
                ) from exc
            self._written = record.revision

    async def _write_progress(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            async with self._lock:
                began = time.monotonic()
                try:
                    await self._write()
                except PgmigError as exc:
                    log.error("%s", exc)
            await asyncio.sleep(pause(PROGRESS_EVERY_S, time.monotonic() - began))

    async def _catch_up_store(self) -> None:
        async def attempt() -> None:
            async with self._lock:
                await self._put()

        while True:
            await self._behind.wait()
            self._behind.clear()
            try:
                await retrying("storing the migration's state", attempt)
            except PgmigError:
                log.exception("the store does not take the migration's state")
