"""A switchover as an operation: requested once, held, cancelled, and left to the next coordinator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.operations import KEPT
from services.coordinator.migration.state import Migration
from services.coordinator.operations import switchover
from services.coordinator.operations import undo as undo_module
from services.coordinator.operations.readiness import await_proceed
from services.coordinator.operations.switching import Switching
from services.coordinator.pipeline.credentials import Credentials, KnownCredentials
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.shared.model import (
    Endpoint,
    ErrorKind,
    Failure,
    Lsn,
    MigrationOptions,
    Operation,
    OperationState,
    PgmigError,
    Phase,
    StepName,
    StepState,
    SwitchoverOptions,
    SwitchoverResult,
    SwitchoverStep,
)
from services.shared.pg.freeze.thaw import Before
from tests.support.records import make_record

BEFORE = Before("", 0.0, "d", "postgres", ())
HELD = SwitchoverOptions(10_000, hold=True)
RESULT = SwitchoverResult(Lsn(4), 120, 6, 4.5)


class Stand:
    """A migration whose attempt to switch over waits where the test wants it to."""

    def __init__(self, phase: Phase = Phase.STREAMING, operation: Operation | None = None) -> None:
        changes = {"operations": (operation,)} if operation else {}
        record = make_record(
            migration_id="m",
            revision=7,
            phase=phase,
            options=MigrationOptions(follow=True),
            source=Endpoint("a", 1, "b", "c"),
            destination=Endpoint("d", 2, "e", "f"),
            created_at=1.5,
            phase_since=2.5,
            **changes,
        )
        self.migration = Migration(record, lambda: ())
        self.context = Context(self.migration, cast(Journal, self), cast(KnownCredentials, self))
        self.switching = Switching(self.context, cast(Schema, None), cast(Workers, None))
        self.reached = asyncio.Event()
        self.blocks = False
        self.saved: list[OperationState] = []
        self.stored: list[Operation] = []
        self.may_save = asyncio.Event()
        self.may_save.set()
        self.refusal: BaseException | None = None

    @property
    def operation(self) -> Operation:
        return self.migration.record.operations[-1]

    async def save(self, *, strict: bool = False) -> None:
        if self.refusal is not None:
            raise self.refusal
        await self.may_save.wait()
        self.saved.append(self.operation.state)
        self.stored.append(self.operation)

    async def claim(self) -> None:
        self.stored.append(self.operation)

    async def both(self) -> Credentials:
        return Credentials()

    async def attempt(self, run: Any) -> None:
        """A held one becomes ready. blocks: writes are blocked then, for ever."""
        await await_proceed(self.context)
        if self.blocks:
            self.migration.began_switchover(BEFORE)
        self.reached.set()
        await asyncio.Event().wait()

    async def undo(self, _context: Context) -> None:
        self.migration.switchover_undone()

    async def until(self, state: OperationState) -> None:
        async with asyncio.timeout(10):
            while self.operation.state is not state:
                await self.migration.changed()

    async def ended(self) -> OperationState:
        while not self.operation.state.ended:
            await self.migration.changed()
        await self.switching.wait()
        return self.operation.state


@pytest.fixture
async def stand(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stand]:
    stand = Stand()
    use(stand, monkeypatch)
    yield stand
    await stand.switching.stop()


def use(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switchover, "_attempt", stand.attempt)
    monkeypatch.setattr(undo_module, "undo", stand.undo)


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
        stand.migration.failed(Failure(ErrorKind.GAP, "changes are missing"))
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
    stand.migration.failed(Failure(ErrorKind.GAP, "changes are missing"))
    assert await stand.ended() is OperationState.FAILED
    assert stand.operation.failure is not None
    assert "changes are missing" in stand.operation.failure.message


async def test_switchover_that_is_not_held_cannot_proceed(stand: Stand) -> None:
    await stand.switching.begin("r", SwitchoverOptions())
    with pytest.raises(PgmigError, match="not held") as caught:
        await stand.switching.proceed(stand.operation)
    assert caught.value.kind is ErrorKind.WRONG_PHASE


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
        stand.migration.downtime_measured(RESULT)
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
