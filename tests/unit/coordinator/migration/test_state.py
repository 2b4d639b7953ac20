"""Records survive being written and read; what cannot be read is told, not guessed."""

from __future__ import annotations

import asyncio
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.coordinator.migration.record import (
    SlotRecord,
    TableRecord,
    pack,
    record_from_json,
    record_to_json,
    unpack,
)
from services.coordinator.migration.state import Migration
from services.coordinator.migration.state_file import read_states, remove_state, write_state
from services.coordinator.migration.views import view_of, watch
from services.coordinator.registry import newest
from services.shared.model import (
    DatabaseIdentity,
    Endpoint,
    ErrorKind,
    Event,
    EventLevel,
    Failure,
    IdentityBefore,
    Lsn,
    MigrationOptions,
    PgmigError,
    Phase,
    PipelineState,
    ReplicaIdentity,
    SkippedTransaction,
    SwitchoverResult,
    TableId,
)
from services.shared.model.view.jsonview import view_from_json
from services.shared.pg.freeze.sessions import OwnSession
from services.shared.pg.freeze.thaw import Before
from tests.support.records import changed, make_record

RECORD = make_record(
    migration_id="m",
    revision=7,
    phase=Phase.FAILED,
    options=MigrationOptions(follow=True),
    source=Endpoint("a", 1, "b", "c", 170004),
    destination=Endpoint("d", 2, "e", "f", 180001),
    created_at=1.5,
    phase_since=2.5,
    resume_state=PipelineState.CATCHUP,
    failure=Failure(ErrorKind.GAP, "text", "hint", Lsn(5)),
    slot=SlotRecord(Lsn(0x1_0000_0000), "6943", 3),
    published=(TableId("s", "root"),),
    inserts_only=(TableId("s", "log"),),
    copied_only=(TableId("s", "scratch"),),
    altered=(IdentityBefore(TableId("s", "t"), ReplicaIdentity.NOTHING),),
    tables=(TableRecord(TableId("s", 'o"dd'), 1, 2, True, 3, 4, Lsn(9)),),
    snapshot_id="snap 1:2:",
    flushed_lsn=Lsn(12),
    freeze=Before("on", 3.25, "shop", "postgres", ("feed",), (OwnSession(7, 1_700_000_000_123_456),)),
    switchover=SwitchoverResult(Lsn(4), 120, 6, 4.5),
    events=(Event(1.0, EventLevel.INFO, "begun"),),
    skipped=(SkippedTransaction(Lsn(4), 742, 1.5, "who@host", "why", "refused"),),
    instance="d",
    term=3,
    source_identity=DatabaseIdentity("6943", 16384),
    destination_identity=DatabaseIdentity("6944", 5),
)


def test_record_is_the_same_after_the_store_and_after_the_file(tmp_path: Path) -> None:
    assert unpack(pack(RECORD)) == RECORD
    assert record_from_json(json.loads(json.dumps(record_to_json(RECORD)))) == RECORD
    view = view_of(Migration(RECORD, lambda _: ()))
    write_state(tmp_path, RECORD, view)
    path = tmp_path / "m" / "state.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(read_states(tmp_path)) == [RECORD]
    assert view_from_json(json.loads(path.read_text())["view"]) == view
    assert [line.split("/")[-1] for line in remove_state(tmp_path, "m")] == ["state.json"]
    assert not path.parent.exists()


@pytest.mark.parametrize("data", [b"", b"not zlib", pack(RECORD)[:-3]])
def test_damaged_value_is_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(PgmigError):
        unpack(data)


def test_file_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    for name, text in {"a": "{", "b": "[]", "c": '{"format": 1}', "d": '{"format": 99}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text(text)
    assert list(read_states(tmp_path)) == []
    assert len(list(tmp_path.glob("*/state.json"))) == 4


@pytest.mark.parametrize(
    "later",
    [
        pytest.param({"revision": 8}, id="revision"),
        pytest.param({"term": 4, "revision": 1}, id="a later coordinator"),
        pytest.param({"instance": "e", "created_at": 9.0, "term": 1, "revision": 1}, id="a later migration"),
    ],
)
def test_of_two_records_of_an_id_the_later_one_counts(later: dict[str, Any]) -> None:
    older, newer = changed(RECORD, phase=Phase.COPY), replace(RECORD, **later)
    assert newest([older, newer]) == {"m": newer}
    assert newest([newer, older]) == {"m": newer}


def test_revision_grows_with_every_change_and_events_are_capped() -> None:
    migration = Migration(RECORD, lambda _: (), clock=lambda: 100.0)
    for number in range(300):
        migration.event(EventLevel.INFO, f"line {number}")
        migration.event(EventLevel.INFO, f"line {number}")  # a repetition is left out
    assert len(migration.record.events) == 200
    assert migration.record.events[-1] == Event(100.0, EventLevel.INFO, "line 299", 300)
    revision = migration.record.revision
    migration.touch()
    assert view_of(migration).revision == revision + 1


def test_impossible_move_is_refused() -> None:
    migration = Migration(changed(RECORD, phase=Phase.ABORTED), lambda _: ())
    with pytest.raises(PgmigError):
        migration.active.entered(PipelineState.COPY)
    assert migration.phase is Phase.ABORTED


def test_what_describes_the_freeze_is_not_lost_by_a_move_to_the_same_phase() -> None:
    """It is all that says how the source is opened again."""
    streaming = Migration(changed(RECORD, phase=Phase.STREAMING), lambda _: ())
    with pytest.raises(PgmigError):
        streaming.switchover_undone()
    switching = Migration(changed(RECORD, phase=Phase.SWITCHOVER), lambda _: ())
    with pytest.raises(PgmigError):
        switching.began_switchover(Before("off", 9.0, "shop"))
    for migration in (streaming, switching):
        assert migration.record.freeze == RECORD.freeze


def test_failure_in_a_switchover_is_resumed_where_the_stream_catches_up() -> None:
    """Whether it streams, only the applier says."""
    migration = Migration(changed(RECORD, phase=Phase.SWITCHOVER, resume_state=None), lambda _: ())
    failure = Failure(ErrorKind.GAP, "text", "hint", Lsn(5))
    migration.active.failed(failure)
    with pytest.raises(PgmigError):
        migration.active.failed(failure)
    migration.switchover_undone()
    migration.active.resumed()
    assert migration.active.state is PipelineState.CATCHUP


async def test_a_watch_combines_changes_and_reports_the_end_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for bound in ("WATCH_EVERY_S", "LONGEST_PAUSE_S"):
        monkeypatch.setattr(f"services.coordinator.migration.views.{bound}", 3600.0)
    migration = Migration(changed(RECORD, phase=Phase.COPY), lambda _: ())
    views = watch(migration)
    first = await anext(views)
    following = asyncio.ensure_future(anext(views))
    for _ in range(3):
        migration.touch()
        await asyncio.sleep(0)
    assert not following.done()
    migration.active.entered(PipelineState.INDEXES)
    await asyncio.sleep(0)
    assert not following.done()
    migration.completed()
    second = await asyncio.wait_for(following, 10)
    assert (second.phase, second.revision) == (Phase.COMPLETE, migration.record.revision)
    assert second.revision > first.revision + 3
    following = asyncio.ensure_future(anext(views))
    await asyncio.sleep(0)
    migration.remove()
    with pytest.raises(StopAsyncIteration):
        await following
