"""The collaborators of a switchover's operation, whose attempt waits where the test wants it to."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.operations import switchover
from services.coordinator.operations import undo as undo_module
from services.coordinator.operations.readiness import await_proceed
from services.coordinator.operations.switching import Switching
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.shared.model import (
    Endpoint,
    Lsn,
    MigrationOptions,
    Operation,
    OperationState,
    Phase,
    SwitchoverOptions,
    SwitchoverResult,
)
from services.shared.pg.freeze.thaw import Before
from tests.support.records import make_record

BEFORE = Before("", 0.0, "d", "postgres", ())
HELD = SwitchoverOptions(10_000, hold=True)
RESULT = SwitchoverResult(Lsn(4), 120, 6, 4.5)


class Stand:
    """A migration whose attempt to switch over waits where the test wants it to."""

    def __init__(self, phase: Phase = Phase.STREAMING, operation: Operation | None = None) -> None:
        changes = {"operations": (operation,)} if operation else {}
        record = make_record(
            migration_id="m",
            revision=7,
            phase=phase,
            options=MigrationOptions(follow=True),
            source=Endpoint("a", 1, "b", "c"),
            destination=Endpoint("d", 2, "e", "f"),
            created_at=1.5,
            phase_since=2.5,
            **changes,
        )
        self.migration = Migration(record, lambda _: ())
        self.context = Context(
            self.migration, self.migration.active, cast(Journal, self), cast(PipelineEnds, self)
        )
        self.switching = Switching(self.context, cast(Schema, None), cast(Workers, None))
        self.reached = asyncio.Event()
        self.blocks = False
        self.saved: list[OperationState] = []
        self.stored: list[Operation] = []
        self.may_save = asyncio.Event()
        self.may_save.set()
        self.refusal: BaseException | None = None

    @property
    def operation(self) -> Operation:
        return self.migration.record.operations[-1]

    async def save(self, *, strict: bool = False) -> None:
        if self.refusal is not None:
            raise self.refusal
        await self.may_save.wait()
        self.saved.append(self.operation.state)
        self.stored.append(self.operation)

    async def claim(self) -> None:
        self.stored.append(self.operation)

    async def both(self) -> Credentials:
        return Credentials()

    async def find_primaries(self) -> bool:
        return False

    async def attempt(self, run: Any) -> None:
        """A held one becomes ready. blocks: writes are blocked then, for ever."""
        await await_proceed(self.context)
        if self.blocks:
            self.migration.began_switchover(BEFORE)
        self.reached.set()
        await asyncio.Event().wait()

    async def undo(self, _context: Context) -> None:
        self.migration.switchover_undone()

    async def until(self, state: OperationState) -> None:
        async with asyncio.timeout(10):
            while self.operation.state is not state:
                await self.migration.changed()

    async def ended(self) -> OperationState:
        while not self.operation.state.ended:
            await self.migration.changed()
        await self.switching.wait()
        return self.operation.state


def use(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switchover, "_attempt", stand.attempt)
    monkeypatch.setattr(undo_module, "undo", stand.undo)
