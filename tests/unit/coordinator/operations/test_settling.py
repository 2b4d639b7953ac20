"""What follows a change of direction, without servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.record import Record
from services.coordinator.migration.state import Migration
from services.coordinator.operations import settling
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.pipeline import Pipelines
from services.shared.model import (
    Direction,
    ErrorKind,
    EventLevel,
)
from services.shared.pg.freeze.thaw import Before, StillDisabledError
from tests.unit.coordinator.migration.test_outcome import turned


class Stand:
    """Pipelines, journal and credentials. did: what was done to the servers, in that order."""

    def __init__(self, record: Record) -> None:
        self.migration = Migration(record, lambda _: ())
        self.preparing = asyncio.Lock()
        self.did: list[str] = []

    def _pipeline(self, direction: Direction) -> Any:
        status = self.migration.pipeline(direction)
        context = Context(self.migration, status, cast(Journal, self), cast(PipelineEnds, self))
        return SimpleNamespace(context=context)

    @property
    def active(self) -> Any:
        return self._pipeline(self.migration.record.active)

    @property
    def idle(self) -> Any:
        return self._pipeline(self.migration.record.active.opposite)

    @property
    def all(self) -> tuple[Any, ...]:
        return tuple(self._pipeline(one.direction) for one in self.migration.record.pipelines)

    @property
    def pipelines(self) -> Pipelines:
        return cast(Pipelines, self)

    async def both(self) -> Credentials:
        return Credentials()

    async def known_source(self) -> str:
        return ""

    async def save(self, *, strict: bool = False) -> None:
        pass


def use(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    async def admit(_: object) -> None:
        stand.did.append("admit")

    async def retire(idle: Any) -> None:
        stand.did.append("retire")
        idle.context.pipeline.retired()

    async def unwatch(*_: object, **__: object) -> None:
        stand.did.append("unwatch")

    async def watch(context: Context, _tables: Sequence[object]) -> None:
        stand.did.append("watch")
        context.pipeline.writes_watched(watched=True)

    monkeypatch.setattr(settling, "admit", admit)
    monkeypatch.setattr(settling, "_retire", retire)
    monkeypatch.setattr(settling, "unwatch_soon", unwatch)
    monkeypatch.setattr(settling, "watch", watch)


async def test_a_subscription_that_stays_disabled_does_not_keep_the_new_primary_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = Before("", 1.0, "db", "postgres", ("sub",))
    stand = Stand(replace(turned(), destination_freeze=closed))

    async def thaw(*_: object) -> bool:
        raise StillDisabledError(ErrorKind.PERMISSION, "subscription sub is not enabled again")

    monkeypatch.setattr(settling, "thaw_recorded", thaw)
    assert settling.closed(stand.active.context)
    async with asyncio.timeout(10):
        await settling.open_at_last(stand.pipelines)
    assert not settling.closed(stand.active.context)
    event = stand.migration.record.events[-1]
    assert event.level is EventLevel.WARNING
    assert "subscription sub is not enabled again" in event.text
