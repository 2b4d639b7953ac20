"""Which transaction an operator may give up: the one that the migration failed at, and no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.coordinator.migration.record import Record
from services.coordinator.operations.skip import LONGEST_TEXT, decided, explained
from services.shared.model import (
    Endpoint,
    ErrorKind,
    Failure,
    Lsn,
    MigrationOptions,
    PgmigError,
    Phase,
    PipelineState,
    SkippedTransaction,
)
from tests.support.records import changed, make_record

REFUSED = Failure(ErrorKind.APPLY_FAILED, "the destination refuses it", "cure it", Lsn(77), 742)
RECORD = make_record(
    migration_id="m",
    revision=7,
    phase=Phase.FAILED,
    options=MigrationOptions(follow=True),
    source=Endpoint("a", 1, "b", "c"),
    destination=Endpoint("d", 2, "e", "f"),
    created_at=1.5,
    phase_since=2.5,
    resume_state=PipelineState.CATCHUP,
    failure=REFUSED,
)


def test_the_audit_record_says_who_when_what_and_why() -> None:
    made = decided(RECORD, Lsn(77), "why", "who@host", 9.5)
    assert made == SkippedTransaction(Lsn(77), 742, 9.5, "who@host", "why", "the destination refuses it")
    long = decided(RECORD, Lsn(77), "y" * 9999, "who@host", 9.5)
    assert len(long.reason) == LONGEST_TEXT


def test_the_hint_says_how_to_continue() -> None:
    assert explained(REFUSED, "m").hint.startswith("cure it; or ")
    assert "--id m --lsn 0/4D" in explained(REFUSED, "m").hint
    gap = Failure(ErrorKind.GAP, "something is missing", "start again", Lsn(77))
    assert explained(gap, "m") == gap


@pytest.mark.parametrize(
    ("record", "lsn", "reason", "who", "kind"),
    [
        (RECORD, 76, "why", "who", ErrorKind.INVALID_ARGUMENT),
        (RECORD, 0, "why", "who", ErrorKind.INVALID_ARGUMENT),
        (RECORD, 77, " ", "who", ErrorKind.INVALID_ARGUMENT),
        (RECORD, 77, "why", "", ErrorKind.INVALID_ARGUMENT),
        (changed(RECORD, phase=Phase.PAUSED), 77, "why", "who", ErrorKind.WRONG_PHASE),
        (changed(RECORD, phase=Phase.CATCHUP, failure=None), 77, "why", "who", ErrorKind.WRONG_PHASE),
        (
            changed(RECORD, failure=replace(REFUSED, kind=ErrorKind.GAP)),
            77,
            "why",
            "who",
            ErrorKind.WRONG_PHASE,
        ),
        (changed(RECORD, failure=replace(REFUSED, xid=0)), 77, "why", "who", ErrorKind.WRONG_PHASE),
    ],
)
def test_anything_else_is_refused(record: Record, lsn: int, reason: str, who: str, kind: ErrorKind) -> None:
    with pytest.raises(PgmigError) as caught:
        decided(record, Lsn(lsn), reason, who, 9.5)
    assert caught.value.kind is kind
    assert caught.value.hint
