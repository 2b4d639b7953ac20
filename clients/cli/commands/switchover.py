"""`switchover`: blocking writes, and ending the migration with the destination as primary database.

The switchover is an operation of the coordinator. This command requests it and shows it, or attaches to the
one that runs.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from clients.cli.commands.dry_run import dry_run as run_dry
from clients.cli.coordinator import connected, local_directory
from clients.cli.fragments import step_text
from clients.cli.hook_options import hook_options
from clients.cli.option_values import duration, lag
from clients.cli.options import Invocation, common_options
from clients.cli.output import print_json, print_table
from clients.cli.progress import tell_connection
from clients.cli.signals import Interrupted, run
from clients.diagnostics import say, talk, warn
from clients.embedded.local_state import process_start
from clients.presentation.sentences import switchover_result
from services.shared.model import (
    ErrorKind,
    ExitCode,
    FreezeMode,
    LagLimit,
    MigrationId,
    Operation,
    OperationKind,
    OperationState,
    PgmigError,
    Phase,
    SwitchoverOptions,
    SwitchoverStep,
    UnansweredError,
)
from services.shared.model.view.jsonview import to_json

if TYPE_CHECKING:
    from clients.session import Session

_OF_A_REQUEST = (
    "timeout",
    "freeze",
    "reverse",
    "pause_poolers",
    "hook_before_freeze",
    "hook_after_decision",
    "hook_after_rollback",
    "hook_timeout",
)
"""Options that have no effect on a switchover that was requested before."""

LOOK_EVERY_S = 1.0
ASK_FOR_S = 60.0
"""For so long an unanswered request is repeated: other commands on the migration may have to end first."""


@dataclass(slots=True)
class Asked:
    """What this command asks the coordinator for. migration_id: once it is known. watched: the operation, as
    it was seen one time after the other. unfinished: it is decided, but the coordinator was lost before
    others could write to the destination."""

    action: str | None
    request_id: str
    kind: OperationKind = OperationKind.SWITCHOVER
    migration_id: str = ""
    watched: list[Operation] = field(default_factory=list)
    unfinished: bool = False


@click.command()
@common_options
@click.option(
    "--timeout",
    type=duration,
    metavar="DURATION",
    default="30s",
    show_default=True,
    help="Longest time that writes may be blocked. After it the switchover is rolled back.",
)
@click.option("--hold", is_flag=True, help="Prepare everything, then wait for `switchover --proceed`.")
@click.option(
    "--freeze",
    type=click.Choice([mode.value for mode in FreezeMode]),
    default=FreezeMode.DATABASE.value,
    show_default=True,
    help="database: block all writers and close the source. none: block nobody, because the application is "
    "stopped; writes that pgmig finds nevertheless roll the switchover back.",
)
@click.option(
    "--reverse",
    is_flag=True,
    help="Replicate the destination's changes back to the source afterwards, so that `rollback` is possible "
    "until `finalize`.",
)
@click.option("--proceed", "action", flag_value="proceed", help="Let the switchover that is held proceed.")
@click.option(
    "--cancel", "action", flag_value="cancel", help="Cancel the switchover: the source accepts writes."
)
@click.option("--attach", "action", flag_value="attach", help="Show the current or the last switchover.")
@click.option("--detach", is_flag=True, help="Print the id of the operation, and do not wait for its end.")
@click.option(
    "--request-id",
    metavar="TEXT",
    default="",
    help="A second request with the same id gets the same switchover. [default: a random id]",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only run the steps that change nothing and block nobody, and estimate for how long writes would be "
    "blocked. Exit code 3: a switchover could not begin.",
)
@click.option(
    "--max-lag",
    type=lag,
    metavar="LAG",
    help="Largest lag of the destination with which writes are blocked, as a duration or a size: 5s, 64MB. A "
    "larger lag is waited for within --timeout. Default: what can be applied within --timeout.",
)
@hook_options
def switchover(
    invocation: Invocation,
    *,
    timeout: float,
    hold: bool,
    freeze: str,
    reverse: bool,
    action: str | None,
    detach: bool,
    request_id: str,
    dry_run: bool,
    max_lag: LagLimit | None,
    around: SwitchoverOptions,
) -> None:
    """Block writes on the source, prove that the destination has everything, and end the migration.

    A switchover that cannot finish in time is rolled back, and the migration continues. It continues
    without this command: Ctrl-C only stops waiting for it.
    """
    if timeout <= 0:
        raise click.BadParameter("must be more than 0", param_hint="--timeout")
    limit = max_lag or LagLimit()
    if dry_run:
        if action or hold or request_id or detach:
            raise click.UsageError(
                "--dry-run begins no switchover: it cannot be combined with --proceed, --cancel, --attach, "
                "--hold, --request-id and --detach"
            )
        planned = replace(around, freeze=FreezeMode(freeze), reverse=reverse)
        checked = run(run_dry(invocation, replace(limit, seconds=limit.seconds or timeout), planned))
        if not checked.can_switch:
            click.get_current_context().exit(ExitCode.REFUSED)
        return
    if action and (hold or request_id or max_lag or any(map(_given, _OF_A_REQUEST))):
        raise click.UsageError(f"--{action} is about a switchover that was requested before")
    options = replace(
        around,
        timeout_ms=max(1, round(timeout * 1000)),
        hold=hold,
        max_lag=limit,
        freeze=FreezeMode(freeze),
        reverse=reverse,
    )
    carry_out(invocation, options, Asked(action, request_id or secrets.token_hex(8)), detach=detach)


def carry_out(invocation: Invocation, options: SwitchoverOptions, asked: Asked, *, detach: bool) -> None:
    """Ask for the operation and wait for its end, unless it is detached."""
    try:
        run(_switchover(invocation, options, asked, detach=detach))
    except Interrupted:
        _say_how_to_continue(asked)
        raise
    if asked.unfinished:
        click.get_current_context().exit(ExitCode.LEFT_BEHIND)


def _given(option: str) -> bool:
    """Whether the option is on the command line."""
    return click.get_current_context().get_parameter_source(option) is ParameterSource.COMMANDLINE


def _say_how_to_continue(asked: Asked) -> None:
    if not asked.watched:
        say("no longer waiting for the switchover; see how it went with `pgmig-cli status`")
        if asked.action is None and asked.migration_id:
            say(_may_begin(asked))
        return
    operation = asked.watched[-1]
    command = f"pgmig-cli switchover --id {operation.migration_id}"
    say(f"no longer waiting for the switchover; it continues as operation {operation.operation_id}")
    say(f"watch it: {command} --attach")
    say(f"cancel it: {command} --cancel")
    if operation.held:
        say(f"let it proceed: {command} --proceed")


async def _switchover(
    invocation: Invocation,
    options: SwitchoverOptions,
    asked: Asked,
    *,
    detach: bool,
) -> None:
    from clients.session import check_succeeded

    async with connected(invocation, "switch over") as (session, migration_id):
        asked.migration_id = migration_id.value
        if asked.action is None:
            operation = await _requested(session, options, asked)
        else:
            operation = await _acted(session, migration_id, asked.action)
        asked.watched.append(operation)
        if detach:
            _print_operation(invocation, operation)
            return
        operation = await _watched(invocation, session, asked.watched)
    if asked.action == "cancel" and operation.state is OperationState.CANCELLED:
        side = "source" if operation.kind is OperationKind.SWITCHOVER else "destination"
        say(f"{operation.kind} cancelled; the {side} accepts writes, and the migration continues")
        return
    check_succeeded(operation)
    warnings = operation.result.warnings if operation.result is not None else ()
    for warning in warnings:
        warn(f"the {operation.kind} is decided, but {warning}")
    if not operation.finished_at and warnings:
        say(f"finish it: pgmig-cli follow --id {operation.migration_id}")
        asked.unfinished = True
    if not invocation.json and operation.result is not None:
        back = operation.kind is OperationKind.ROLLBACK
        done = "rolled back to the source" if back else "switched over"
        print_table(f"{done}: {switchover_result(operation.result)}")
        if operation.options.reverse and not back:
            say(f"go back: pgmig-cli rollback --id {operation.migration_id}")
            say(f"end the migration: pgmig-cli finalize --id {operation.migration_id}")


async def _requested(session: Session, options: SwitchoverOptions, asked: Asked) -> Operation:
    """Request the switchover. A request that is not answered in time is repeated with its id, so that it
    begins only one switchover. Raises UNREACHABLE if the coordinator does not answer."""
    deadline = time.monotonic() + ASK_FOR_S
    while True:
        try:
            if asked.kind is OperationKind.ROLLBACK:
                return await session.begin_rollback(asked.migration_id, options, asked.request_id)
            return await session.begin_switchover(asked.migration_id, options, asked.request_id)
        except UnansweredError as exc:
            if exc.kind is ErrorKind.UNREACHABLE or time.monotonic() >= deadline:
                hint = f"{exc.hint}; {_may_begin(asked)}"
                raise PgmigError(ErrorKind.UNREACHABLE, exc.message, hint) from exc
            say(f"{exc.message}; the request is repeated")
        await asyncio.sleep(LOOK_EVERY_S)


def _may_begin(asked: Asked) -> str:
    """The coordinator may have received the request, although it has not answered."""
    command = f"pgmig-cli switchover --id {asked.migration_id}"
    return (
        "the switchover may begin nevertheless: to wait for it, repeat the same command with "
        f"`--request-id {asked.request_id}`; to cancel it: `{command} --cancel`"
    )


async def _acted(session: Session, migration_id: MigrationId, action: str) -> Operation:
    """The migration's last operation, after the action on it."""
    known = await session.list_operations(migration_id.value)
    if not known:
        raise PgmigError(
            ErrorKind.NOT_FOUND,
            f"no switchover of migration {migration_id} was requested",
            f"request one with `pgmig-cli switchover --id {migration_id}`",
        )
    operation = known[-1]
    if action == "cancel":
        return await session.cancel_operation(operation.operation_id)
    if action == "proceed":
        return await session.proceed_operation(operation.operation_id)
    return operation


async def _watched(invocation: Invocation, session: Session, watched: list[Operation]) -> Operation:
    """Show the operation until it has ended, also if the coordinator is started again meanwhile. Raises
    UNREACHABLE if the coordinator belongs to a `clone` or `follow` of this machine that has ended before."""
    watching = asyncio.create_task(_watch(invocation, session, watched))
    gone = asyncio.create_task(_until_gone(invocation))
    try:
        await asyncio.wait({watching, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not watching.done():
            await asyncio.wait({watching}, timeout=LOOK_EVERY_S)
    finally:
        for task in (watching, gone):
            task.cancel()
        await asyncio.wait({watching, gone})
    if not watching.cancelled():
        watching.result()
        return watched[-1]
    return _recorded_end(invocation, watched[-1])


async def _until_gone(invocation: Invocation) -> None:
    """Return when the stack of this machine that runs the migration has ended. One that is stopping has not:
    its coordinator ends the operation first."""
    if invocation.coordinator:
        await asyncio.Event().wait()
    directory = local_directory(invocation)
    stack = directory.running_stack()
    while stack is not None:
        await asyncio.sleep(LOOK_EVERY_S)
        if process_start(stack.pid) != stack.started:
            stack = directory.running_stack()


def _recorded_end(invocation: Invocation, operation: Operation) -> Operation:
    """The coordinator has ended. Returns the end of the operation that it has recorded, and shows the steps
    that were not watched. A recorded decision is final. Raises UNREACHABLE if nothing is recorded."""
    offline = local_directory(invocation).offline_view()
    recorded = offline.view.operation if offline is not None else None
    if offline is None or recorded is None or recorded.operation_id != operation.operation_id:
        raise _out_of_sight(operation)
    if not recorded.state.ended:
        back = operation.kind is OperationKind.ROLLBACK
        if offline.view.phase not in {Phase.SWITCHED_OVER, Phase.REVERSE} or back:
            raise _out_of_sight(operation)
        recorded = replace(recorded, state=OperationState.SUCCEEDED, result=offline.view.switchover)
    for step in recorded.steps[len(operation.steps) :]:
        _show(invocation, step)
    return recorded


def _out_of_sight(operation: Operation) -> PgmigError:
    """The coordinator has ended, and the operation has not."""
    return PgmigError(
        ErrorKind.UNREACHABLE,
        f"the coordinator was lost during the switchover, which is operation {operation.operation_id}",
        f"start it again with `pgmig-cli follow --id {operation.migration_id}`; until then writes to the "
        "source may stay blocked. It undoes a switchover that was not decided; see `pgmig-cli operations`",
    )


async def _watch(invocation: Invocation, session: Session, watched: list[Operation]) -> None:
    following = session.follow_operation(watched[-1].operation_id, tell_connection, reached=True)
    told, waiting = 0, False
    async with aclosing(following) as states:
        async for operation in states:
            watched.append(operation)
            for step in operation.steps[told:]:
                _show(invocation, step)
            told = len(operation.steps)
            if operation.state is OperationState.READY and not waiting:
                say(f"ready; waits for `pgmig-cli switchover --id {operation.migration_id} --proceed`")
            waiting = operation.state is OperationState.READY


def _show(invocation: Invocation, step: SwitchoverStep) -> None:
    if invocation.json:
        print_json(to_json(step), line=True)
    else:
        talk(step_text(step))


def _print_operation(invocation: Invocation, operation: Operation) -> None:
    if invocation.json:
        print_json(to_json(operation))
    else:
        print_table(f"operation {operation.operation_id} is {operation.state}")
