"""Notices that another server has become the primary, while a migration runs.

It does so only where a connection string names several servers. The running phase then ends with PROMOTED,
all workers stop, and the phase begins again at the new primary. Where the servers share one address, workers
notice the change themselves when they connect again.
"""

from __future__ import annotations

import asyncio
import logging

from services.coordinator.pipeline.credentials import NOTHING_GIVEN
from services.coordinator.pipeline.parts import Context, Workers
from services.shared.model import ErrorKind, PgmigError

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0


class PrimaryWatch:
    """Of one pipeline."""

    def __init__(self, context: Context, workers: Workers) -> None:
        self._context = context
        self._workers = workers
        self._in_use = NOTHING_GIVEN

    async def begin(self) -> None:
        """A phase begins: it uses the primaries of now, and workers with former ones stop, however the last
        phase ended. Raises UNREACHABLE."""
        self._in_use = NOTHING_GIVEN
        await self._context.credentials.find_primaries()
        self._in_use = self._context.credentials.known
        if self._in_use.complete:
            await self._workers.staffing.release_elsewhere(self._in_use)

    async def run(self) -> None:
        """Until it is cancelled. Never raises otherwise."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if not self._in_use.complete or not self._context.pipeline.running:
                continue
            try:
                await self._context.credentials.find_primaries()
            except PgmigError as exc:
                log.info("migration %s: %s", self._context.migration.id, exc)
                continue
            now = self._context.credentials.known
            if self._in_use.complete and now.addresses != self._in_use.addresses:
                self._in_use = NOTHING_GIVEN
                self._workers.reports.end_phase(
                    PgmigError(ErrorKind.PROMOTED, "another server is the primary now: working with it")
                )
