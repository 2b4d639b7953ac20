"""The estimate of the time for which a switchover would block writes."""

from __future__ import annotations

from services.coordinator.operations.estimate import Measured, estimated
from services.shared.model import DryRunResult, Readiness, StepName


def parts(measured: Measured) -> dict[StepName, int]:
    return {part.step: part.milliseconds for part in estimated(measured)}


def test_what_was_measured_grows_the_step_that_repeats_it() -> None:
    idle = parts(Measured())
    assert parts(Measured(lag_s=2.0))[StepName.DRAIN] == idle[StepName.DRAIN] + 2000
    assert parts(Measured(tables=10_000))[StepName.FREEZE] == idle[StepName.FREEZE] + 500
    assert parts(Measured(compare_s=0.2))[StepName.VERIFY] == idle[StepName.VERIFY] + 200
    read = parts(Measured(read_s=0.1, verify_s=0.1))
    assert read[StepName.SEQUENCES] == 300
    assert read[StepName.VERIFY] == idle[StepName.VERIFY] + 200


def test_a_step_without_anything_to_do_is_left_out_and_the_total_is_the_sum() -> None:
    assert StepName.UNPUBLISHED not in parts(Measured())
    assert parts(Measured(unpublished_s=0.5))[StepName.UNPUBLISHED] == 500
    estimate = estimated(Measured(lag_s=1.0, round_trip_s=0.01))
    assert DryRunResult(Readiness(True), True, estimate).blocked_ms == sum(p.milliseconds for p in estimate)
    assert [part.step for part in estimate] == [
        step for step in StepName if step in parts(Measured(0, 1.0, 0.01))
    ]
