"""Conflicts are recognized and decided by values alone."""

from __future__ import annotations

import pytest

from services.shared.model import Direction
from services.shared.model.conflicts.policy import ConflictKind, Decision, OnConflict
from services.shared.model.conflicts.resolution import Local, Remote, Write, conflict_of, decide

REMOTE = Remote(committed_at=100, seen=50)


@pytest.mark.parametrize(
    ("write", "local", "kind"),
    [
        (Write.INSERT, Local(exists=False), None),
        (Write.INSERT, Local(exists=False, changed_at=50), None),
        (Write.INSERT, Local(exists=False, changed_at=51), ConflictKind.INSERT_DELETED),
        (Write.INSERT, Local(exists=True), ConflictKind.INSERT_EXISTS),
        (Write.INSERT, Local(exists=True, changed_at=51), ConflictKind.INSERT_EXISTS),
        (Write.UPDATE, Local(exists=True), None),
        (Write.UPDATE, Local(exists=True, changed_at=50), None),
        (Write.UPDATE, Local(exists=True, changed_at=51), ConflictKind.UPDATE_ORIGIN_DIFFERS),
        (Write.UPDATE, Local(exists=False), ConflictKind.UPDATE_MISSING),
        (Write.UPDATE, Local(exists=False, changed_at=50), ConflictKind.UPDATE_MISSING),
        (Write.UPDATE, Local(exists=False, changed_at=51), ConflictKind.UPDATE_DELETED),
        (Write.DELETE, Local(exists=True), None),
        (Write.DELETE, Local(exists=True, changed_at=50), None),
        (Write.DELETE, Local(exists=True, changed_at=51), ConflictKind.DELETE_ORIGIN_DIFFERS),
        (Write.DELETE, Local(exists=False), ConflictKind.DELETE_MISSING),
    ],
)
def test_a_change_conflicts_with_what_its_transaction_has_not_seen(
    write: Write, local: Local, kind: ConflictKind | None
) -> None:
    assert conflict_of(write, local, REMOTE) is kind


@pytest.mark.parametrize(
    ("policy", "decision"),
    [
        (OnConflict.STOP, Decision.STOPPED),
        (OnConflict.KEEP_LOCAL, Decision.KEPT),
        (OnConflict.APPLY_REMOTE, Decision.APPLIED),
    ],
)
def test_other_policies_decide_every_conflict_alike(policy: OnConflict, decision: Decision) -> None:
    for kind in ConflictKind:
        for local in (
            Local(exists=True),
            Local(exists=True, changed_at=99),
            Local(exists=True, changed_at=101),
        ):
            assert decide(policy, kind, local, REMOTE, Direction.FORWARD) is decision


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(
    "kind",
    [
        ConflictKind.INSERT_EXISTS,
        ConflictKind.INSERT_DELETED,
        ConflictKind.UPDATE_ORIGIN_DIFFERS,
        ConflictKind.UPDATE_DELETED,
        ConflictKind.DELETE_ORIGIN_DIFFERS,
    ],
)
def test_the_later_commit_wins(kind: ConflictKind, direction: Direction) -> None:
    def decided(changed_at: int | None) -> Decision:
        local = Local(exists=True, changed_at=changed_at)
        return decide(OnConflict.LAST_UPDATE_WINS, kind, local, REMOTE, direction)

    assert decided(99) is Decision.APPLIED
    assert decided(101) is Decision.KEPT
    assert decided(None) is Decision.APPLIED


def test_both_sides_decide_a_tie_for_the_source() -> None:
    local = Local(exists=True, changed_at=100)
    kind = ConflictKind.UPDATE_ORIGIN_DIFFERS
    policy = OnConflict.LAST_UPDATE_WINS
    assert decide(policy, kind, local, REMOTE, Direction.FORWARD) is Decision.APPLIED
    assert decide(policy, kind, local, REMOTE, Direction.REVERSE) is Decision.KEPT


def test_what_the_transaction_has_seen_is_older_whatever_the_clocks_say() -> None:
    local = Local(exists=True, changed_at=2000)
    remote = Remote(committed_at=100, seen=2000)
    kind = ConflictKind.INSERT_EXISTS
    decision = decide(OnConflict.LAST_UPDATE_WINS, kind, local, remote, Direction.REVERSE)
    assert decision is Decision.APPLIED


def test_last_update_wins_stops_where_the_time_is_not_known() -> None:
    for kind in (ConflictKind.UPDATE_MISSING, ConflictKind.TRUNCATE_ORIGIN_DIFFERS):
        decision = decide(OnConflict.LAST_UPDATE_WINS, kind, Local(exists=False), REMOTE, Direction.FORWARD)
        assert decision is Decision.STOPPED


def test_a_row_that_both_sides_have_deleted_stays_deleted() -> None:
    kind = ConflictKind.DELETE_MISSING
    for changed_at in (None, 1, 1000):
        local = Local(exists=False, changed_at=changed_at)
        decision = decide(OnConflict.LAST_UPDATE_WINS, kind, local, REMOTE, Direction.FORWARD)
        assert decision is Decision.KEPT
