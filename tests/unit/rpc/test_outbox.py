"""What the outbox keeps, replaces and repeats."""

from __future__ import annotations

import pytest

from services.shared.model import (
    ApplierProgress,
    AssignmentFailed,
    AssignmentStopped,
    DecoderProgress,
    ErrorKind,
    Lsn,
    PartDone,
    PartProgress,
    Register,
    Role,
    WorkerReport,
)
from services.shared.rpc.conversion.report import report_from_pb
from services.shared.rpc.outbox import Outbox


def filled(*reports: WorkerReport) -> Outbox:
    outbox = Outbox()
    for report in reports:
        outbox.put(report)
    return outbox


def drain(outbox: Outbox) -> list[WorkerReport]:
    taken = []
    while (message := outbox.take()) is not None:
        taken.append(report_from_pb(message))
    return taken


def done(part: str) -> PartDone:
    return PartDone("a1", part, 1, 1)


def copying(part: str, size: int, assignment: str = "a1") -> PartProgress:
    return PartProgress(assignment, part, 0, size)


def decoding(position: int) -> DecoderProgress:
    return DecoderProgress("a1", Lsn(position), Lsn(position), Lsn(position))


def test_only_the_newest_progress_is_kept_and_it_comes_after_what_it_follows() -> None:
    outbox = filled(decoding(1), done("p1"), decoding(2))
    assert drain(outbox) == [done("p1"), decoding(2)]


def test_progress_is_kept_separately_for_each_part_and_assignment() -> None:
    reports = [copying("p1", 1), copying("p2", 1), copying("p1", 1, "a2")]
    assert drain(filled(*reports)) == reports


def test_what_was_not_acknowledged_comes_again_first_and_in_order() -> None:
    outbox = filled(done("p1"), done("p2"), done("p3"))
    drain(outbox)
    outbox.acknowledge(1)
    outbox.put(done("p4"))
    outbox.rewind()
    assert drain(outbox) == [done("p2"), done("p3"), done("p4")]


def test_progress_lost_with_a_stream_is_not_repeated() -> None:
    outbox = filled(decoding(1))
    drain(outbox)
    outbox.rewind()
    assert drain(outbox) == []


def test_an_acknowledgement_covers_everything_before_it() -> None:
    outbox = filled(done("p1"), done("p2"))
    drain(outbox)
    outbox.acknowledge(2)
    assert outbox.settled


def test_it_is_settled_only_when_all_that_must_arrive_is_acknowledged() -> None:
    outbox = filled(decoding(1))
    assert outbox.settled
    outbox.put(done("p1"))
    assert not outbox.settled
    drain(outbox)
    assert not outbox.settled
    outbox.acknowledge(1)
    assert outbox.settled


@pytest.mark.parametrize("end", [done("p1"), AssignmentFailed("a1", ErrorKind.TRANSIENT, "x", part_id="p1")])
def test_the_end_of_a_part_takes_the_place_of_its_progress(end: WorkerReport) -> None:
    outbox = filled(copying("p1", 5), copying("p2", 5), end)
    assert drain(outbox) == [copying("p2", 5), end]


@pytest.mark.parametrize("end", [AssignmentStopped("a1"), AssignmentFailed("a1", ErrorKind.GAP, "x")])
def test_the_end_of_an_assignment_takes_the_place_of_its_progress(end: WorkerReport) -> None:
    applying = ApplierProgress("a2", Lsn(1), Lsn(1), 0.0, 0, 0, 0)
    outbox = filled(copying("p1", 5), decoding(1), applying, end)
    assert drain(outbox) == [applying, end]


def test_register_is_not_for_workers_to_report() -> None:
    with pytest.raises(TypeError):
        Outbox().put(Register("w", Role.COPIER, "h"))


def test_a_report_that_cannot_be_encoded_fails_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="-1"):
        Outbox().put(PartDone("a1", "p1", -1, 0))
