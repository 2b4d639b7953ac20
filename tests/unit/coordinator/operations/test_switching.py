"""A switchover as an operation: requested once, held and cancelled."""

from __future__ import annotations

import asyncio

import pytest

from services.coordinator.migration.operations import KEPT
from services.coordinator.operations import switchover
from services.shared.model import (
    ErrorKind,
    Failure,
    Operation,
    OperationState,
    PgmigError,
    Phase,
    SwitchoverOptions,
)
from tests.fakes.switching import BEFORE, HELD, RESULT, Stand, use


async def test_request_is_stored_before_it_is_answered(stand: Stand) -> None:
    operation = await stand.switching.begin("r", SwitchoverOptions())
    assert stand.saved == [OperationState.PREPARING]
    assert operation == stand.migration.operations.found(operation.operation_id)


async def test_same_request_id_is_the_same_operation_also_after_its_end(stand: Stand) -> None:
    first = await stand.switching.begin("r", SwitchoverOptions())
    assert await stand.switching.begin("r", SwitchoverOptions()) == stand.operation
    await stand.switching.cancel(stand.operation)
    await stand.ended()
    again = await stand.switching.begin("r", SwitchoverOptions())
    assert (again.operation_id, again.state) == (first.operation_id, OperationState.CANCELLED)
    assert len(stand.migration.record.operations) == 1


async def test_same_request_id_with_other_options_is_refused(stand: Stand) -> None:
    first = await stand.switching.begin("r", SwitchoverOptions())
    with pytest.raises(PgmigError, match=first.operation_id) as caught:
        await stand.switching.begin("r", HELD)
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT


async def test_another_request_is_refused_with_the_id_of_the_one_that_runs(stand: Stand) -> None:
    first = await stand.switching.begin("r", SwitchoverOptions())
    with pytest.raises(PgmigError) as caught:
        await stand.switching.begin("other", SwitchoverOptions())
    assert caught.value.kind is ErrorKind.WRONG_PHASE
    assert first.operation_id in caught.value.message
    await stand.switching.cancel(stand.operation)
    await stand.ended()
    assert (await stand.switching.begin("other", SwitchoverOptions())).operation_id != first.operation_id


async def test_request_waits_until_the_operation_before_has_stored_its_end(stand: Stand) -> None:
    """Who sees that end may ask again at once."""
    may_store = asyncio.Event()

    async def save(*, strict: bool = False) -> None:
        if stand.operation.state.ended:
            await may_store.wait()

    stand.save = save  # type: ignore[method-assign]
    await stand.switching.begin("r", SwitchoverOptions())
    await stand.reached.wait()
    await stand.switching.cancel(stand.operation)
    await stand.until(OperationState.CANCELLED)
    assert not stand.switching.running  # so no command is refused for its sake
    beginning = asyncio.create_task(stand.switching.begin("again", SwitchoverOptions()))
    for _ in range(9):
        await asyncio.sleep(0)
    may_store.set()
    await beginning
    for _ in range(9):
        await asyncio.sleep(0)
    first, second = stand.migration.record.operations
    assert (first.state, second.state) == (OperationState.CANCELLED, OperationState.PREPARING)


async def test_the_last_operations_are_kept(stand: Stand) -> None:
    for number in range(KEPT + 3):
        await stand.switching.begin(f"{number}", SwitchoverOptions())
        await stand.switching.cancel(stand.operation)
        await stand.ended()
    kept = [operation.request_id for operation in stand.migration.record.operations]
    assert kept == [f"{number}" for number in range(3, KEPT + 3)]


async def test_operation_that_could_not_be_stored_does_not_begin(stand: Stand) -> None:
    async def refuse(*, strict: bool = False) -> None:
        raise PgmigError(ErrorKind.FENCED, "another coordinator")

    stand.save = refuse  # type: ignore[method-assign]
    with pytest.raises(PgmigError, match="another coordinator"):
        await stand.switching.begin("r", SwitchoverOptions())
    assert not stand.switching.running
    assert stand.operation.state is OperationState.FAILED


@pytest.mark.parametrize("blocks", [False, True])
async def test_cancelled_switchover_is_undone_and_is_no_failure(stand: Stand, blocks: bool) -> None:
    stand.blocks = blocks
    await stand.switching.begin("r", SwitchoverOptions())
    await stand.reached.wait()
    assert (await stand.switching.cancel(stand.operation)).cancel_requested
    assert await stand.ended() is OperationState.CANCELLED
    assert stand.migration.phase is Phase.STREAMING
    assert stand.migration.failure is None
    assert stand.operation.failure is None
    assert stand.saved[-1] is OperationState.CANCELLED


async def test_switchover_that_is_cancelled_before_its_first_step_ends(stand: Stand) -> None:
    beginning = asyncio.create_task(stand.switching.begin("r", SwitchoverOptions()))
    while stand.migration.operations.current is None or not stand.switching.running:
        await asyncio.sleep(0)
    await stand.switching.cancel(stand.operation)
    await beginning
    assert await stand.ended() is OperationState.CANCELLED


async def test_switchover_that_is_cancelled_while_it_is_being_stored_does_not_begin(stand: Stand) -> None:
    stand.may_save.clear()
    beginning = asyncio.create_task(stand.switching.begin("r", SwitchoverOptions()))
    while stand.migration.operations.current is None:
        await asyncio.sleep(0)
    cancelling = asyncio.create_task(stand.switching.cancel(stand.operation))
    await asyncio.sleep(0)
    assert stand.operation.cancel_requested
    stand.may_save.set()
    assert (await beginning).state is OperationState.CANCELLED
    assert (await cancelling).cancel_requested
    assert not stand.switching.running
    assert stand.stored[-1].cancel_requested


async def test_switchover_that_is_cancelled_while_the_coordinator_ends_is_not_continued(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stand.switching.begin("r", HELD)
    await stand.until(OperationState.READY)
    await stand.switching.stop()
    assert (await stand.switching.cancel(stand.operation)).cancel_requested
    following = Stand(operation=stand.stored[-1])
    use(following, monkeypatch)
    following.switching.resume()
    assert following.operation.state is OperationState.CANCELLED


@pytest.mark.parametrize("state", [OperationState.CANCELLED, OperationState.FAILED])
@pytest.mark.parametrize("full", [False, True])
async def test_end_is_stored_before_clients_see_it(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, state: OperationState, full: bool
) -> None:
    """The next coordinator, which has only what was stored, ends the operation in the same way. full: the
    state file cannot be written, so the store alone has it."""
    await stand.switching.begin("r", HELD)
    await stand.until(OperationState.READY)
    if full:
        stand.refusal = PgmigError(ErrorKind.INTERNAL, "no space left on device")
    if state is OperationState.CANCELLED:
        await stand.switching.cancel(stand.operation)
    else:
        stand.migration.active.failed(Failure(ErrorKind.GAP, "changes are missing"))
    await stand.until(state)
    following = Stand(operation=next(one for one in reversed(stand.stored) if not one.state.ended))
    use(following, monkeypatch)
    following.switching.resume()
    assert following.operation.state is state
    assert following.operation.failure == stand.operation.failure


async def test_operation_ends_although_its_outcome_could_not_be_told(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of ours after the decision."""

    async def decides(_run: object) -> None:
        stand.migration.began_switchover(BEFORE)
        stand.migration.switched_over(RESULT)

    async def broken(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(switchover, "_attempt", decides)
    monkeypatch.setattr(switchover, "_finish", broken)
    await stand.switching.begin("r", SwitchoverOptions())
    async with asyncio.timeout(10):
        assert await stand.ended() is OperationState.SUCCEEDED
    assert stand.operation.result == RESULT


async def test_request_whose_storing_breaks_does_not_stay_open(stand: Stand) -> None:
    stand.refusal = RuntimeError("a mistake of ours")
    with pytest.raises(RuntimeError):
        await stand.switching.begin("r", SwitchoverOptions())
    assert stand.operation.state is OperationState.FAILED


async def test_switchover_whose_decision_is_being_stored_cannot_be_cancelled(stand: Stand) -> None:
    stand.blocks = True
    await stand.switching.begin("r", SwitchoverOptions())
    await stand.reached.wait()
    stand.switching._feed.deciding = True
    with pytest.raises(PgmigError) as caught:
        await stand.switching.cancel(stand.operation)
    assert caught.value.kind is ErrorKind.WRONG_PHASE
    assert not stand.operation.cancel_requested


async def test_switchover_that_has_ended_cannot_be_cancelled(stand: Stand) -> None:
    ended = Stand(operation=Operation("o", "m", "r", state=OperationState.ROLLED_BACK))
    with pytest.raises(PgmigError) as caught:
        await ended.switching.cancel(ended.operation)
    assert caught.value.kind is ErrorKind.WRONG_PHASE


async def test_held_switchover_waits_until_it_may_proceed(stand: Stand) -> None:
    await stand.switching.begin("r", HELD)
    await stand.until(OperationState.READY)
    assert not stand.reached.is_set()
    await stand.switching.proceed(stand.operation)
    await stand.reached.wait()
    await stand.until(OperationState.PREPARING)
    assert await stand.switching.proceed(stand.operation) == stand.operation


async def test_held_switchover_fails_with_its_migration(stand: Stand) -> None:
    await stand.switching.begin("r", HELD)
    await stand.until(OperationState.READY)
    stand.migration.active.failed(Failure(ErrorKind.GAP, "changes are missing"))
    assert await stand.ended() is OperationState.FAILED
    assert stand.operation.failure is not None
    assert "changes are missing" in stand.operation.failure.message


async def test_switchover_that_is_not_held_cannot_proceed(stand: Stand) -> None:
    await stand.switching.begin("r", SwitchoverOptions())
    with pytest.raises(PgmigError, match="not held") as caught:
        await stand.switching.proceed(stand.operation)
    assert caught.value.kind is ErrorKind.WRONG_PHASE
