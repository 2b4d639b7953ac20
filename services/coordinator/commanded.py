"""What all commands on one migration stand on. Only one command runs at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.coordinator.migration.state import Migration
from services.coordinator.phase_loop import PhaseLoop
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.pipeline import Pipeline
from services.shared.model import ErrorKind, PgmigError


class Commanded:
    def __init__(self, loop: PhaseLoop) -> None:
        self.loop = loop
        self._credentials = loop.pipelines.credentials
        self._bus = loop.pipelines.active.bus
        self._command = asyncio.Lock()

    @property
    def migration(self) -> Migration:
        return self.loop.migration

    # Of the pipeline that works.

    @property
    def _context(self) -> Context:
        return self.loop.pipelines.active.context

    @property
    def _schema(self) -> Schema:
        return self.loop.pipelines.active.schema

    @property
    def _workers(self) -> Workers:
        return self.loop.pipelines.active.workers

    @property
    def _working(self) -> tuple[Pipeline, ...]:
        """The pipelines that work, or that worked last: two if both sides are written to."""
        return tuple(self.loop.pipelines.of(one.direction) for one in self.migration.record.working)

    @property
    def _contexts(self) -> tuple[Context, ...]:
        """Of all pipelines."""
        return tuple(pipeline.context for pipeline in self.loop.pipelines.all)

    @asynccontextmanager
    async def _commanded(self) -> AsyncIterator[Migration]:
        async with self._command:
            if self.migration.removed:
                raise PgmigError(ErrorKind.NOT_FOUND, f"migration {self.migration.id} has been cleaned up")
            yield self.migration

    def _check_not_switching(self, done: str) -> None:
        if self.loop.switching.running:
            cancel = f"`pgmig-cli switchover --id {self.migration.id} --cancel`"
            hint = f"wait for the end of the switchover, or cancel it: {cancel}"
            raise wrong_phase(self.migration, done, hint)

    async def _release_all(self) -> None:
        for pipeline in self.loop.pipelines.all:
            await pipeline.workers.staffing.release()


def wrong_phase(migration: Migration, done: str, hint: str = "") -> PgmigError:
    return PgmigError(
        ErrorKind.WRONG_PHASE, f"migration {migration.id} in phase {migration.phase} cannot be {done}", hint
    )
