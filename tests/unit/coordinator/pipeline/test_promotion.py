"""A pipeline whose source was promoted: what is compared, and in which order."""

from __future__ import annotations

from typing import Any, cast

import pytest

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.record import SlotRecord, TableRecord
from services.coordinator.migration.state import Migration
from services.coordinator.pipeline import promotion
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.staffing import Staffing
from services.decoder.slot import check_identity
from services.shared.bus.connection import Client
from services.shared.model import (
    DecoderWork,
    Endpoint,
    ErrorKind,
    Lsn,
    MigrationOptions,
    PgmigError,
    Phase,
    TableId,
)
from services.shared.pg.replication.connection import SlotState, SystemIdentity
from services.shared.pg.replication.timelines import Promoted
from services.shared.pg.session.primary import Primary
from tests.support.records import make_record

SLOT = SlotState(Lsn(0x50), 0, lost=False, plugin="pgoutput", synchronized=True)


class Coordinator:
    """log: what was done, in order. stopped: whether workers stop when they are released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, timeline: int = 2, floor: int = 0) -> None:
        self.log: list[str] = []
        self.stopped = True
        self.timeline = timeline
        record = make_record(
            migration_id="m",
            revision=7,
            phase=Phase.STREAMING,
            options=MigrationOptions(follow=True),
            source=Endpoint("source", 1, "d", "u"),
            destination=Endpoint("destination", 2, "d", "u"),
            created_at=1.5,
            phase_since=2.5,
            slot=SlotRecord(Lsn(0x40), "77", 1),
            tables=(TableRecord(TableId("public", "t"), copied=True, floor=Lsn(floor)),),
        )
        self.migration = Migration(record, lambda _: ())
        self.context = Context(
            self.migration, self.migration.active, cast(Journal, self), cast(PipelineEnds, self)
        )
        monkeypatch.setattr(promotion, "read_primary", self.read_primary)
        monkeypatch.setattr(promotion, "read_promoted", self.read_promoted)
        monkeypatch.setattr(promotion, "_fenced_progress", self.progress)
        monkeypatch.setattr(promotion, "delete_stream", self.delete_stream)

    async def run(self) -> None:
        await promotion.continue_if_promoted(self.context, cast(Staffing, self), cast(Client, None))

    @property
    def recorded(self) -> int:
        slot = self.migration.active.record.slot
        assert slot is not None
        return slot.timeline

    async def both(self) -> Credentials:
        return Credentials("source", "destination")

    async def release(self) -> bool:
        self.log.append("release")
        return self.stopped

    async def save(self, *, strict: bool = False) -> None:
        self.log.append(f"save {self.recorded}")

    async def read_primary(self, uri: str, _side: str) -> Primary:
        return Primary(uri, "77", self.timeline)

    async def read_promoted(self, *_: object) -> Promoted:
        return Promoted(2, Lsn(0x900), {1: Lsn(0x100)}, SLOT)

    async def progress(self, *_: object) -> Lsn:
        self.log.append("progress")
        return Lsn(0x60)

    async def delete_stream(self, *_: object) -> bool:
        self.log.append("delete stream")
        return True


async def test_the_new_timeline_is_recorded_after_the_workers_and_the_change_stream_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coordinator = Coordinator(monkeypatch)
    await coordinator.run()
    assert coordinator.log == ["release", "progress", "delete stream", "save 2"]


async def test_nothing_is_done_while_the_source_is_on_the_recorded_timeline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coordinator = Coordinator(monkeypatch, timeline=1)
    await coordinator.run()
    assert coordinator.log == []


async def test_nothing_is_decided_while_a_worker_may_use_the_former_primary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coordinator = Coordinator(monkeypatch)
    coordinator.stopped = False
    with pytest.raises(PgmigError) as caught:
        await coordinator.run()
    assert caught.value.kind is ErrorKind.TRANSIENT
    assert coordinator.log == ["release"]
    assert coordinator.recorded == 1


async def test_a_table_that_was_copied_behind_the_end_of_the_timeline_is_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coordinator = Coordinator(monkeypatch, floor=0x101)
    with pytest.raises(PgmigError) as caught:
        await coordinator.run()
    assert caught.value.kind is ErrorKind.GAP
    assert "0/100" in caught.value.message
    assert "0/101" in caught.value.message
    assert coordinator.recorded == 1
    assert "delete stream" not in coordinator.log


@pytest.mark.parametrize(
    ("system", "timeline", "kind"),
    [("77", 2, None), ("77", 3, ErrorKind.PROMOTED), ("77", 1, ErrorKind.GAP), ("78", 3, ErrorKind.GAP)],
)
def test_a_decoder_reads_the_recorded_timeline_only(
    system: str, timeline: int, kind: ErrorKind | None
) -> None:
    work: Any = DecoderWork(
        "uri", follow=True, may_create=False, tables=(), system_identifier="77", timeline=2
    )
    found: ErrorKind | None = None
    try:
        check_identity(work, SystemIdentity(system, timeline, Lsn(9)))
    except PgmigError as exc:
        found = exc.kind
    assert found is kind
