"""Switchovers as operations: requested, watched, held, cancelled, and what is printed of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from clients.cli.commands import switchover as command
from clients.embedded.local_state import OfflineView, RunningStack, process_start
from clients.session import Session
from services.shared.model import (
    ErrorKind,
    Failure,
    FreezeMode,
    Lsn,
    MigrationId,
    MigrationView,
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
from services.shared.rpc import control_client
from tests.fakes.thread import ServedControl
from tests.support.clients.commands import at, document, pgmig, put


def requested(served: ServedControl, **changes: object) -> Operation:
    """An operation of migration m, with these fields."""
    operation = Operation("m-1", "m", "earlier", started_at=1.0)
    operation = replace(operation, **changes)  # type: ignore[arg-type]
    served.do(lambda: served.control.operations.update({"m-1": operation}))
    return operation


def test_coordinator_that_is_lost_during_a_switchover_is_waited_for(served: ServedControl) -> None:
    put(served)
    lost = PgmigError(ErrorKind.UNREACHABLE, "it is gone", "check the address")
    served.control.errors["switchover, 1 steps are done"] = lost
    result = at(served, "switchover")
    assert result.exit_code == 0
    assert result.stdout.startswith("switched over: writes were blocked for 412ms")
    assert "it is gone" in result.stderr
    watches = [call for call in served.control.calls if call[0] == "watch_operation"]
    assert len(watches) == 2
    assert [line.split()[2] for line in result.stderr.splitlines() if "✔" in line].count("freeze") == 1


def test_detached_switchover_is_requested_and_not_awaited(served: ServedControl) -> None:
    put(served)
    result = at(served, "switchover", "--detach")
    assert (result.exit_code, result.stdout) == (0, "operation m-1 is preparing\n")
    assert document(at(served, "switchover", "--attach", "--detach", "-o", "json"))["operation_id"] == "m-1"
    attached = at(served, "switchover", "--attach")
    assert attached.stdout.startswith("switched over: ")


def test_same_request_id_is_the_same_switchover(served: ServedControl) -> None:
    put(served)
    for _ in range(2):
        assert at(served, "switchover", "--detach", "--request-id", "r").stdout.startswith("operation m-1 ")
    assert served.control.operations["m-1"].request_id == "r"
    for _ in range(2):
        at(served, "switchover", "--detach")
    assert len({one.request_id for one in served.control.operations.values()}) == 3


def answering_late(served: ServedControl, monkeypatch: pytest.MonkeyPatch, calls: int) -> list[str]:
    """The first calls are obeyed, and not answered in time. Returns the request ids of all calls."""
    begin, seen = served.control.switchover, []

    async def late(migration_id: MigrationId, request_id: str, options: SwitchoverOptions) -> Operation:
        seen.append(request_id)
        number = len(seen)
        operation = await begin(migration_id, request_id, options)
        if number <= calls:
            await asyncio.sleep(2.0)
        return operation

    monkeypatch.setattr(served.control, "switchover", late)
    monkeypatch.setattr(control_client, "DEADLINE_S", 0.5)
    monkeypatch.setattr(command, "LOOK_EVERY_S", 0.1)
    return seen


def test_request_that_is_not_answered_in_time_is_repeated_with_its_id(
    served: ServedControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(served)
    requests = answering_late(served, monkeypatch, 1)
    result = at(served, "switchover", "--detach")
    assert (result.exit_code, result.stdout) == (0, "operation m-1 is preparing\n")
    assert "the request is repeated" in result.stderr
    assert requests == [served.control.operations["m-1"].request_id] * 2


def test_request_that_is_never_answered_is_not_said_to_be_rolled_back(
    served: ServedControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(served)
    requests = answering_late(served, monkeypatch, 1000)
    monkeypatch.setattr(command, "ASK_FOR_S", 0.0)
    result = at(served, "switchover")
    assert result.exit_code == 4
    assert "the switchover may begin nevertheless" in result.stderr
    assert f"`--request-id {requests[0]}`" in result.stderr


def test_ctrl_c_before_the_answer_names_the_request(
    served: ServedControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(served)
    requests = answering_late(served, monkeypatch, 1000)

    def interrupt() -> None:
        while not requests:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    result = at(served, "switchover")
    interrupting.join()
    assert result.exit_code == 130
    assert f"`--request-id {requests[0]}`" in result.stderr
    assert "pgmig-cli switchover --id m --cancel" in result.stderr


def test_held_switchover_waits_until_it_may_proceed(served: ServedControl) -> None:
    put(served)
    at(served, "switchover", "--hold", "--detach", "--timeout", "10s")
    operation = served.control.operations["m-1"]
    assert operation.options == SwitchoverOptions(10_000, hold=True)
    result = at(served, "switchover", "--proceed")
    assert result.exit_code == 0
    assert ("proceed_operation", "m-1") in served.control.calls
    assert result.stdout.startswith("switched over: ")


def test_command_that_waits_for_a_held_switchover_says_how_it_proceeds(served: ServedControl) -> None:
    put(served)
    operations = served.control.operations

    def proceed() -> None:
        while not any(one.state is OperationState.READY for one in operations.values()):
            time.sleep(0.01)
        served.await_there(served.control.proceed_operation("m-1"))

    proceeding = threading.Thread(target=proceed)
    proceeding.start()
    result = at(served, "switchover", "--hold")
    proceeding.join()
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines()[0] == "ready; waits for `pgmig-cli switchover --id m --proceed`"
    assert result.stdout.startswith("switched over: ")


def test_switchover_without_a_freeze_is_requested_by_name(served: ServedControl) -> None:
    put(served)
    at(served, "switchover", "--freeze", "none", "--detach")
    assert served.control.operations["m-1"].options.freeze is FreezeMode.NONE
    assert at(served, "switchover", "--freeze", "tables").exit_code == 2


def test_cancelled_switchover_is_a_success_of_cancel_and_a_failure_for_who_watches(
    served: ServedControl,
) -> None:
    put(served)
    requested(served)
    result = at(served, "switchover", "--cancel")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("switchover cancelled; the source accepts writes")
    watching = at(served, "switchover", "--attach")
    assert watching.exit_code == 5
    assert watching.stderr.startswith("error: the switchover was cancelled")


def test_failure_of_a_switchover_gives_the_exit_code_of_its_kind(served: ServedControl) -> None:
    put(served)
    failure = Failure(ErrorKind.TIMEOUT, "out of time in step drain", "allow more time")
    requested(served, state=OperationState.ROLLED_BACK, failure=failure)
    result = at(served, "switchover", "--attach")
    assert result.exit_code == 6
    assert result.stderr == "error: out of time in step drain\nhint: allow more time\n"


@pytest.mark.parametrize("action", ["--attach", "--proceed", "--cancel"])
def test_action_without_a_switchover_says_that_there_is_none(served: ServedControl, action: str) -> None:
    put(served)
    result = at(served, "switchover", action)
    assert result.exit_code == 7
    assert "no switchover of migration m was requested" in result.stderr
    assert at(served, "switchover", action, "--hold").exit_code == 2
    assert at(served, "switchover", action, "--request-id", "r").exit_code == 2


def test_operations_are_listed_with_their_results(served: ServedControl) -> None:
    put(served)
    assert at(served, "operations").stderr == "no operations\n"
    at(served, "switchover")
    failure = Failure(ErrorKind.TIMEOUT, "out of time")
    served.control.operations["m-2"] = Operation(
        "m-2", "m", "r", state=OperationState.FAILED, failure=failure, started_at=1.0, finished_at=2.0
    )
    lines = at(served, "operations").stdout.splitlines()
    assert lines[0].split() == ["OPERATION", "STARTED", "ENDED", "STATE"]
    assert "succeeded: writes were blocked for 412ms" in lines[1]
    assert lines[2].startswith("m-2")
    assert lines[2].endswith("failed: out of time")
    listed = json.loads(at(served, "operations", "-o", "json").stdout)
    assert [one["state"] for one in listed] == ["succeeded", "failed"]


def test_status_shows_the_state_of_the_switchover(served: ServedControl) -> None:
    view = put(served)
    operation = Operation("m-1", "m", "r", options=SwitchoverOptions(hold=True), state=OperationState.READY)
    served.do(lambda: served.control.put(replace(view, operation=operation)))
    assert MigrationId(view.migration_id) == MigrationId("m")
    shown = [line.split() for line in at(served, "status").stdout.splitlines()]
    assert ["Switchover", "ready"] in shown
    assert document(at(served, "status", "-o", "json"))["operation"]["operation_id"] == "m-1"


def test_ctrl_c_only_stops_waiting_and_says_how_to_go_on(served: ServedControl) -> None:
    put(served)

    def interrupt() -> None:
        while not any(one.state is OperationState.READY for one in served.control.operations.values()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    result = at(served, "switchover", "--hold")
    interrupting.join()
    assert result.exit_code == 130
    # It is ready on the server; the command may not have shown that yet.
    lines = [line for line in result.stderr.splitlines() if not line.startswith("ready; waits for ")]
    assert lines[:4] == [
        "no longer waiting for the switchover; it continues as operation m-1",
        "watch it: pgmig-cli switchover --id m --attach",
        "cancel it: pgmig-cli switchover --id m --cancel",
        "let it proceed: pgmig-cli switchover --id m --proceed",
    ]
    assert not served.control.operations["m-1"].state.ended


@dataclass(frozen=True)
class Local:
    """The state directory of a migration whose `clone` has ended in another terminal."""

    recorded: MigrationView | None
    stack: RunningStack | None = None

    def running_stack(self) -> RunningStack | None:
        return self.stack

    def offline_view(self) -> OfflineView | None:
        return None if self.recorded is None else OfflineView(self.recorded, 1.0)


def on_this_machine(served: ServedControl, monkeypatch: pytest.MonkeyPatch, local: Local) -> None:
    put(served)

    @asynccontextmanager
    async def connected(*_: object) -> AsyncIterator[tuple[Session, MigrationId]]:
        async with Session(served.address) as session:
            yield session, MigrationId("m")

    monkeypatch.setattr(command, "connected", connected)
    monkeypatch.setattr(command, "local_directory", lambda _invocation: local)
    monkeypatch.setattr(command, "LOOK_EVERY_S", 0.1)


OTHER = Operation("m-0", "m", "other", state=OperationState.SUCCEEDED)
UNDECIDED = Operation("m-1", "m", "r", state=OperationState.RUNNING)


@pytest.mark.parametrize("operation", [None, OTHER, UNDECIDED])
def test_coordinator_of_this_machine_that_ends_is_not_waited_for(
    served: ServedControl, monkeypatch: pytest.MonkeyPatch, operation: Operation | None
) -> None:
    """It belonged to a `clone` in another terminal; nobody starts it again."""
    recorded = None if operation is None else MigrationView("m", Phase.SWITCHOVER, operation=operation)
    on_this_machine(served, monkeypatch, Local(recorded))
    result = pgmig("switchover", "--hold", "--id", "m")
    assert result.exit_code == 4
    assert "the coordinator was lost during the switchover, which is operation m-1" in result.stderr
    assert "writes to the source may stay blocked" in result.stderr


RESULT = SwitchoverResult(Lsn(0x10), 7000, 5, 1.0)
STEPS = (
    SwitchoverStep(StepName.FREEZE, StepState.STARTED),
    SwitchoverStep(StepName.COMMIT, StepState.DONE, result=RESULT),
)


@pytest.mark.parametrize(
    "operation",
    [
        Operation("m-1", "m", "r", state=OperationState.SUCCEEDED, steps=STEPS, result=RESULT),
        Operation("m-1", "m", "r", state=OperationState.RUNNING, steps=STEPS[:1]),
    ],
)
def test_end_that_a_coordinator_of_this_machine_recorded_is_shown(
    served: ServedControl, monkeypatch: pytest.MonkeyPatch, operation: Operation
) -> None:
    """Its `clone` stopped it before it sent the end. A stored decision is final, whatever else was stored."""
    recorded = MigrationView("m", Phase.SWITCHED_OVER, operation=operation, switchover=RESULT)
    on_this_machine(served, monkeypatch, Local(recorded))
    result = pgmig("switchover", "--hold", "--id", "m")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("switched over: writes were blocked for 7.0s, 5 sequences set")


def test_destination_that_is_still_read_only_is_left_behind(
    served: ServedControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator ended before it could open the destination."""
    operation = Operation("m-1", "m", "r", state=OperationState.RUNNING, steps=STEPS[:1])
    warning = "database d is still read-only by default: to open it yourself: ALTER DATABASE d RESET x"
    decided = replace(RESULT, warnings=(warning,))
    recorded = MigrationView("m", Phase.SWITCHED_OVER, operation=operation, switchover=decided)
    on_this_machine(served, monkeypatch, Local(recorded))
    result = pgmig("switchover", "--hold", "--id", "m")
    assert result.exit_code == 9
    assert warning in " ".join(result.stderr.split())
    assert "finish it: pgmig-cli follow --id m" in result.stderr


def test_coordinator_of_this_machine_that_stops_is_waited_for(
    served: ServedControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`clone` removes stack.json when it begins to stop its services, the coordinator last."""
    running = subprocess.Popen(["sleep", "600"])
    try:
        stack = RunningStack("m", running.pid, process_start(running.pid) or "", served.address)
        found = iter([stack])
        on_this_machine(served, monkeypatch, Local(None))
        monkeypatch.setattr(Local, "running_stack", lambda _self: next(found, None))
        proceed = served.control.proceed_operation
        timer = threading.Timer(1.0, lambda: served.do(lambda: asyncio.ensure_future(proceed("m-1"))))
        timer.start()
        result = pgmig("switchover", "--hold", "--id", "m")
        timer.join()
    finally:
        running.kill()
        running.wait()
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("switched over: ")
