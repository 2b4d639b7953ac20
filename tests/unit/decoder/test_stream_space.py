"""A full change stream: when waiting for space is in vain, and how often it is told."""

from __future__ import annotations

from services.coordinator.migration.stream_progress import FULL_EPISODE_S, StreamProgress
from services.decoder.space import Look, in_vain
from services.shared.model import DecoderProgress, Lsn
from services.shared.wire.changes import ChangeBatch


def batch(previous: int, end: int, number: int, *, opened: bool = False) -> ChangeBatch:
    return ChangeBatch(Lsn(previous), Lsn(end), number=number, open_transaction=opened)


ENDED = batch(10, 20, 1, opened=True)
UNDER_WAY = batch(20, 20, 2, opened=True)


def test_an_open_transaction_that_fills_the_stream_never_gets_space() -> None:
    assert in_vain(Look(1, ENDED, UNDER_WAY, Lsn(20)), Look(3, ENDED, UNDER_WAY, Lsn(20)))


def test_what_is_not_flushed_or_not_trimmed_yet_may_still_make_space() -> None:
    for first, flushed in ((ENDED, 19), (batch(0, 10, 0), 20)):
        look = Look(1, first, UNDER_WAY, Lsn(flushed))
        assert not in_vain(look, Look(9, first, UNDER_WAY, Lsn(flushed)))


def test_space_that_was_just_made_is_tried_first() -> None:
    look = Look(1, ENDED, UNDER_WAY, Lsn(20))
    assert not in_vain(None, look)
    assert not in_vain(look, Look(2, ENDED, UNDER_WAY, Lsn(20)))
    assert not in_vain(look, Look(5, ENDED, batch(20, 20, 3, opened=True), Lsn(20)))


def test_each_period_of_a_full_stream_is_reported_once() -> None:
    following = StreamProgress()

    def told(now: float, *, full: bool) -> bool:
        return following.stream_filled(now, DecoderProgress("d", Lsn(1), Lsn(1), Lsn(1), full))

    assert not told(0, full=False)
    assert told(1, full=True)
    assert not told(2, full=True)
    assert not told(3, full=False)
    assert not told(4, full=True)
    assert not told(4 + FULL_EPISODE_S, full=True)
    assert told(5 + 2 * FULL_EPISODE_S, full=True)
