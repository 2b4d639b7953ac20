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
from services.coordinator.operations import settling, turning
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.pipeline import Pipelines
from services.shared.model import (
    Direction,
    ErrorKind,
    EventLevel,
    Operation,
    OperationKind,
    SwitchoverOptions,
)
from services.shared.pg.catalog.replica_identity import Published
from services.shared.pg.freeze.thaw import Before, StillDisabledError
from tests.unit.coordinator.migration.test_outcome import switching, turned


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


def begun(operation_id: str) -> Operation:
    return Operation(operation_id, "m", "r", OperationKind.ROLLBACK, SwitchoverOptions(10_000))


async def test_the_pipeline_that_worked_is_retired_although_another_operation_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the pipeline of the new direction would start beside appliers that are not kept out."""
    stand = Stand(replace(turned(), operations=(begun("next"),)))
    use(stand, monkeypatch)
    await settling.settle(stand.pipelines, anew=False)
    assert "retire" in stand.did


@pytest.mark.parametrize("anew", [False, True])
async def test_what_the_operation_has_prepared_is_kept_unless_it_begins_again(
    anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = replace(turned(), operations=(begun("next"),))
    stand = Stand(record.with_pipeline(replace(record.forward, prepared_by="next")))
    use(stand, monkeypatch)
    await settling.settle(stand.pipelines, anew=anew)
    assert ("retire" in stand.did) is anew


def test_the_record_says_which_operation_prepares_the_pipeline() -> None:
    stand = Stand(replace(switching(), operations=(begun("now"),)))
    intended = turning._intended(stand.active.context, None, Published(()))
    assert intended.prepared_by == "now"


async def test_writes_to_the_side_that_was_left_are_recorded_before_the_old_pipeline_is_retired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if an earlier run has left triggers, which do nothing any more."""
    record = turned()
    works = replace(record.pipeline(Direction.REVERSE), watched=True)
    stand = Stand(record.with_pipeline(works))
    use(stand, monkeypatch)
    await settling.settle(stand.pipelines, anew=True)
    assert stand.did == ["admit", "watch", "retire", "unwatch"]
    await settling.settle(stand.pipelines, anew=True)
    assert stand.did == ["admit", "watch", "retire", "unwatch", "unwatch"]
