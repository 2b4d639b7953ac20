"""Where replication may continue after the source was promoted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.pg.replication.connection import SlotState, parse_history
from services.shared.pg.replication.timelines import Promoted, check_continues

SLOT = SlotState(Lsn(0x50), 0, lost=False, plugin="pgoutput", synchronized=True)
FOUND = Promoted(3, Lsn(0x900), {1: Lsn(0x100), 2: Lsn(0x200)}, SLOT)


def refusal(found: Promoted, timeline: int = 1, applied: int = 0x60, read: int = 0) -> str:
    with pytest.raises(PgmigError) as caught:
        check_continues(found, "pgmig_m", timeline, Lsn(applied), Lsn(read or applied))
    assert caught.value.kind is ErrorKind.GAP
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("applied", [0x50, 0x60, 0x100])
def test_it_continues_from_a_slot_at_or_before_the_progress_that_the_new_timeline_contains(
    applied: int,
) -> None:
    check_continues(FOUND, "pgmig_m", 1, Lsn(applied), Lsn(applied))


def test_a_slot_ahead_of_the_progress_is_a_gap() -> None:
    text = refusal(FOUND, applied=0x4F)
    assert "does not send changes before 0/50 any more" in text
    assert "only the changes before 0/4F" in text


def test_a_timeline_that_was_left_before_the_progress_is_a_gap() -> None:
    text = refusal(FOUND, applied=0x101)
    assert (
        "its timeline 3 leaves timeline 1 at 0/100, but the destination has what was read up to 0/101" in text
    )
    check_continues(FOUND, "pgmig_m", 2, Lsn(0x101), Lsn(0x101))


def test_rows_that_were_copied_behind_the_end_of_the_timeline_are_a_gap() -> None:
    assert "read up to 0/101" in refusal(FOUND, applied=0x60, read=0x101)


def test_a_timeline_that_is_not_in_the_history_is_a_gap() -> None:
    assert "does not continue timeline 2" in refusal(replace(FOUND, ends={1: Lsn(0x100)}), timeline=2)


@pytest.mark.parametrize(
    ("slot", "why"),
    [
        (None, "is missing there"),
        (replace(SLOT, synchronized=False), "was not synchronized to it"),
        (replace(SLOT, temporary=True), "was not synchronized to it"),
    ],
)
def test_without_a_synchronized_slot_there_is_a_gap(slot: SlotState | None, why: str) -> None:
    text = refusal(replace(FOUND, slot=slot))
    assert f"replication slot pgmig_m {why}" in text
    assert "0/100" in text
    assert "0/60" in text


def test_the_history_names_the_end_of_each_earlier_timeline() -> None:
    text = "# a comment\n1\t0/3000148\tno recovery target specified\n\n2\t1/A0\tbefore 2026-11-29\n"
    assert parse_history(text) == {1: Lsn(0x3000148), 2: Lsn((1 << 32) + 0xA0)}
