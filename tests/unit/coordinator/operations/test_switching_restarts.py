"""What becomes of a switchover's operation when its coordinator stops, and when the next one starts."""

from __future__ import annotations

import time

import pytest

from services.shared.model import (
    ErrorKind,
    Failure,
    Operation,
    OperationState,
    PgmigError,
    Phase,
    StepName,
    StepState,
    SwitchoverOptions,
    SwitchoverStep,
)
from tests.fakes.switching import BEFORE, HELD, RESULT, Stand, use


@pytest.mark.parametrize("blocks", [False, True])
async def test_coordinator_that_stops_leaves_what_is_not_blocked_and_undoes_the_rest(
    stand: Stand, blocks: bool
) -> None:
    stand.blocks = blocks
    await stand.switching.begin("r", SwitchoverOptions())
    await stand.reached.wait()
    await stand.switching.stop()
    assert stand.operation.state is (OperationState.ROLLED_BACK if blocks else OperationState.PREPARING)
    assert stand.migration.phase is Phase.STREAMING


def left(state: OperationState, options: SwitchoverOptions, began_before: float = 0.0) -> Operation:
    """By the coordinator before."""
    return Operation("o", "m", "r", options=options, state=state, started_at=time.time() - began_before)


@pytest.mark.parametrize(
    ("state", "options", "began_before"),
    [
        (OperationState.PREPARING, SwitchoverOptions(), 0.0),
        (OperationState.PREPARING, HELD, 3600.0),
        (OperationState.READY, HELD, 3600.0),
    ],
)
async def test_next_coordinator_prepares_again(
    state: OperationState, options: SwitchoverOptions, began_before: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = Stand(operation=left(state, options, began_before))
    use(stand, monkeypatch)
    stand.switching.resume()
    assert stand.operation.state is OperationState.PREPARING
    if options.hold:
        await stand.until(OperationState.READY)
    else:
        await stand.reached.wait()
    await stand.switching.stop()


async def test_next_coordinator_does_not_begin_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(operation=left(OperationState.PREPARING, SwitchoverOptions(), 31.0))
    use(stand, monkeypatch)
    stand.switching.resume()
    assert not stand.switching.running
    assert stand.operation.state is OperationState.FAILED
    assert stand.operation.failure is not None
    assert stand.operation.failure.kind is ErrorKind.TIMEOUT


async def test_next_coordinator_begins_nothing_that_was_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    operation = Operation("o", "m", "r", options=HELD, state=OperationState.READY, cancel_requested=True)
    stand = Stand(operation=operation)
    use(stand, monkeypatch)
    stand.switching.resume()
    assert not stand.switching.running
    assert stand.operation.state is OperationState.CANCELLED


ENDS = {
    (Phase.SWITCHED_OVER, False): OperationState.SUCCEEDED,
    (Phase.SWITCHED_OVER, True): OperationState.SUCCEEDED,
    (Phase.STREAMING, False): OperationState.ROLLED_BACK,
    (Phase.STREAMING, True): OperationState.CANCELLED,
}


@pytest.mark.parametrize(("phase", "cancelled"), ENDS)
async def test_outcome_of_a_running_switchover_is_known_from_the_phase(phase: Phase, cancelled: bool) -> None:
    operation = Operation("o", "m", "r", state=OperationState.RUNNING, cancel_requested=cancelled)
    stand = Stand(phase, operation)
    if phase is Phase.SWITCHED_OVER:
        stand.migration.downtime_measured(RESULT, workers_stopped=True)
    stand.switching.resume()
    assert stand.operation.state is ENDS[phase, cancelled]
    assert (stand.operation.result == RESULT) == (phase is Phase.SWITCHED_OVER)
    rolled_back = stand.operation.state is OperationState.ROLLED_BACK
    assert (stand.operation.failure is not None) == rolled_back
    last = StepName.COMMIT if phase is Phase.SWITCHED_OVER else StepName.ROLLBACK
    assert stand.operation.steps[-1].name is last


async def test_switchover_is_not_ended_before_it_is_undone() -> None:
    stand = Stand(Phase.SWITCHOVER, Operation("o", "m", "r", state=OperationState.RUNNING))
    stand.switching.resume()
    assert stand.operation.state is OperationState.RUNNING


async def test_reports_of_a_task_change_only_its_own_operation() -> None:
    stand = Stand(operation=Operation("o", "m", "r"))
    operations = stand.migration.operations
    operations.step("earlier", SwitchoverStep(StepName.DRAIN, StepState.STARTED))
    operations.failing("earlier", Failure(ErrorKind.TIMEOUT, "out of time"))
    operations.ended("earlier", OperationState.FAILED)
    assert stand.operation == Operation("o", "m", "r")


async def test_nothing_is_frozen_without_an_operation() -> None:
    stand = Stand(operation=Operation("o", "m", "r", state=OperationState.CANCELLED))
    with pytest.raises(PgmigError) as caught:
        stand.migration.began_switchover(BEFORE)
    assert caught.value.kind is ErrorKind.WRONG_PHASE
    assert stand.migration.phase is Phase.STREAMING
