"""The end of a phase on a server that was replaced while the phase ran."""

from __future__ import annotations

from typing import cast

import pytest

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.pipeline import milestones
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context
from services.shared.model import Endpoint, ErrorKind, Lsn, MigrationOptions, PgmigError, Phase
from services.shared.model.milestone import Milestone
from tests.support.records import make_record

REACHED = Milestone("token", 2, Lsn(0x500))


class Destination:
    """On timeline 2."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        record = make_record(
            migration_id="m",
            revision=7,
            phase=Phase.COPY,
            options=MigrationOptions(follow=True),
            source=Endpoint("source", 1, "d", "u"),
            destination=Endpoint("destination", 2, "d", "u"),
            created_at=1.5,
            phase_since=2.5,
        )
        self.migration = Migration(record, lambda _: ())
        self.context = Context(
            self.migration, self.migration.active, cast(Journal, self), cast(PipelineEnds, self)
        )
        monkeypatch.setattr(milestones, "writable_connection", self.open)
        monkeypatch.setattr(milestones, "ensure_bookkeeping", self.nothing)
        monkeypatch.setattr(milestones, "set_milestone", self.set_milestone)

    async def both(self) -> Credentials:
        return Credentials("source", "destination")

    async def open(self, *_: object, **__: object) -> Destination:
        return self

    async def close(self) -> None:
        pass

    async def nothing(self, *_: object) -> None:
        pass

    async def set_milestone(self, *_: object) -> Milestone:
        return REACHED


async def test_a_phase_that_ends_on_its_timeline_is_a_milestone(monkeypatch: pytest.MonkeyPatch) -> None:
    destination = Destination(monkeypatch)
    await milestones.reach(destination.context, 2)
    assert destination.migration.active.record.milestone == REACHED


async def test_a_phase_that_a_promotion_has_interrupted_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of its work may be on the former primary only."""
    destination = Destination(monkeypatch)
    with pytest.raises(PgmigError) as caught:
        await milestones.reach(destination.context, 1)
    assert caught.value.kind is ErrorKind.PROMOTED
    assert destination.migration.active.record.milestone is None
