"""For how long a switchover would block writes: an estimate from what a dry run has measured."""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.model import EstimatedPart, StepName

LOCK_S = 0.00005
"""To lock one table that nobody has locked."""
APPLY_S = 0.1
"""For a sentinel from the source's WAL to the destination's disk, with nothing before it."""
END_S = 0.05
"""Until the sessions that the switchover ends are gone."""
COMMIT_S = 0.05
"""To store the decision and release the locks."""


@dataclass(frozen=True, slots=True)
class Measured:
    """All in seconds. tables: how many are locked. lag_s: of the destination, now. round_trip_s: one query to
    each server. compare_s: comparing the tables of both sides. read_s, verify_s: reading all sequences of the
    source, of the destination. unpublished_s: comparing what no publication contains; 0.0: there is nothing.
    """

    tables: int = 0
    lag_s: float = 0.0
    round_trip_s: float = 0.0
    compare_s: float = 0.0
    read_s: float = 0.0
    verify_s: float = 0.0
    unpublished_s: float = 0.0


def estimated(measured: Measured) -> tuple[EstimatedPart, ...]:
    """The steps that block writes. Sequences are set, and read back twice. The tables are compared once
    more, and a second sentinel is applied."""
    trip = measured.round_trip_s
    seconds = {
        StepName.FREEZE: LOCK_S * measured.tables + 6 * trip + END_S,
        StepName.SENTINEL: trip,
        StepName.DRAIN: measured.lag_s + APPLY_S,
        StepName.CLOSE: 4 * trip + END_S,
        StepName.SEQUENCES: measured.read_s + 2 * measured.verify_s,
        StepName.UNPUBLISHED: measured.unpublished_s,
        StepName.VERIFY: measured.compare_s + measured.read_s + measured.verify_s + 4 * trip + APPLY_S,
        StepName.COMMIT: COMMIT_S,
    }
    return tuple(EstimatedPart(step, round(s * 1000)) for step, s in seconds.items() if s)
