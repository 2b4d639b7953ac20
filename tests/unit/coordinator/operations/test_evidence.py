"""The certificate claims only what was checked, and no switchover is decided without all checks."""

from __future__ import annotations

import pytest

from services.coordinator.operations.evidence import Evidence
from services.shared.model import ErrorKind, Lsn, PgmigError, TableId
from services.shared.model.view.certificate import CheckName, CheckOutcome
from services.shared.pg.catalog.sequences import SequenceValue
from tests.support.certificates import CERTIFICATE

SOMETIMES = {CheckName.TRUNCATE, CheckName.UNPUBLISHED}
FREEZE = {
    CheckName.LOCKS_HELD,
    CheckName.DATABASE_CLOSED,
    CheckName.NO_SESSION_LEFT,
    CheckName.NO_PREPARED_TRANSACTION,
}


def complete(*, blocks: bool, without: CheckName | None = None) -> Evidence:
    evidence = Evidence(blocks, source=CERTIFICATE.source, destination=CERTIFICATE.destination)
    for name in CheckName:
        if name is not without:
            evidence.passed(name, "seen")
    return evidence


def claimed(evidence: Evidence) -> set[CheckName]:
    return {check.name for check in evidence.checks() if check.outcome is CheckOutcome.PASSED}


@pytest.mark.parametrize("blocks", [True, False])
def test_only_checks_of_the_freeze_mode_are_claimed(blocks: bool) -> None:
    evidence = complete(blocks=blocks)
    evidence.check_complete()
    others = {CheckName.NO_OPEN_TRANSACTION} if blocks else FREEZE
    assert claimed(evidence) == set(CheckName) - others
    assert [check.name for check in evidence.checks()] == list(CheckName)
    assert all(check.detail for check in evidence.checks())


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("name", CheckName)
def test_switchover_without_a_check_is_not_decided(name: CheckName, blocks: bool) -> None:
    evidence = complete(blocks=blocks, without=name)
    assert name not in claimed(evidence)
    others = {CheckName.NO_OPEN_TRANSACTION} if blocks else FREEZE
    if name in SOMETIMES | others:
        evidence.check_complete()
        return
    with pytest.raises(PgmigError, match=name.value):
        evidence.check_complete()


def test_sequences_that_were_not_all_compared_are_not_claimed() -> None:
    values = (SequenceValue(TableId("a", "b"), 1, True), SequenceValue(TableId("a", "c"), 1, True))
    evidence = Evidence()
    evidence.sequences_equal(values, 1)
    assert not claimed(evidence)
    assert evidence.sequences == ()
    evidence.sequences_equal(values, 2)
    assert claimed(evidence) == {CheckName.SEQUENCES_EQUAL}


@pytest.mark.parametrize("progress", [None, Lsn(0), Lsn(99)])
def test_word_of_the_applier_is_not_enough(progress: Lsn | None) -> None:
    evidence = Evidence()
    with pytest.raises(PgmigError, match="the applier has confirmed 0/64") as caught:
        evidence.progressed(progress, Lsn(100))
    assert caught.value.kind is ErrorKind.SWITCHOVER_FAILED
    assert not claimed(evidence)
    evidence.progressed(Lsn(100), Lsn(100))
    assert claimed(evidence) == {CheckName.DESTINATION_PROGRESS}
