"""What a switchover does to applications apart from the freeze: hooks, and poolers that are paused.

    hook before-freeze, PAUSE, freeze, ..., decision, hook after-decision, RESUME
                                  ..., roll-back, RESUME, hook after-rollback

If the hook after the decision fails, the poolers stay paused: they may still lead to the old source. An
operator is asked to lead them to the new server and to resume them. Clients wait as long as PgBouncer's
query_wait_timeout allows.

What was begun is recorded before it is done (HandoverRecord), and the operation ends after all of it. So a
coordinator that is started after a crash does what remains (`conclude`).
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from services.coordinator.migration.failpoints import Edge, at_step
from services.coordinator.operations import hooks, poolers
from services.coordinator.operations.steps import StepFeed
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.reports import unexpected
from services.shared.model import (
    ErrorKind,
    EventLevel,
    FreezeMode,
    HookName,
    Operation,
    OperationState,
    PgmigError,
    StepName,
    StepState,
    SwitchoverOptions,
    counted,
)
from services.shared.pg.pooler.console import without_password
from services.shared.runtime.assignments import cause

log = logging.getLogger(__name__)

PAUSE_SHARE = 0.5
"""Of the time that is left, for PAUSE."""
MOST_POOLERS = 32


def recorded(options: SwitchoverOptions) -> SwitchoverOptions:
    """The options without the passwords of poolers. Raises INVALID_ARGUMENT."""
    known = dict.fromkeys(without_password(uri) for uri in options.pause_poolers)
    return replace(options, pause_poolers=tuple(known))


def check_accepted(context: Context, options: SwitchoverOptions) -> None:
    """Raises INVALID_ARGUMENT for hooks and poolers that this coordinator does not accept."""
    hooks.check_accepted(context, options)
    if len(options.pause_poolers) > MOST_POOLERS:
        raise PgmigError(ErrorKind.INVALID_ARGUMENT, f"more than {MOST_POOLERS} poolers cannot be paused")
    _check_led(context, options)


def _check_led(context: Context, options: SwitchoverOptions) -> None:
    expected = hooks.expected_after_decision(context, options)
    if options.pause_poolers and options.freeze is FreezeMode.NONE and not expected:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            "no hook after the decision leads the paused poolers to the destination, and the source is not "
            "closed: after RESUME their clients would write to the old source",
            "give the command that does it as --hook-after-decision",
        )


def any_of(context: Context, options: SwitchoverOptions) -> bool:
    return bool(options.pause_poolers or hooks.commands(context, options))


async def check(context: Context, options: SwitchoverOptions) -> str:
    """Check that hooks can be executed and poolers be paused. Changes nothing. Returns what was found. Raises
    INVALID_ARGUMENT, and what `console.check` raises."""
    _check_led(context, options)
    hooks.check_commands(context, options)
    await poolers.check(context, options.pause_poolers)
    found = [f"hook {name} can be executed" for name in hooks.commands(context, options)]
    if options.pause_poolers:
        found.append(f"{counted(len(options.pause_poolers), 'pooler')} can be paused")
    return "; ".join(found)


async def before_freeze(context: Context, feed: StepFeed) -> float:
    """Run the hook, if there is one. Nothing is blocked yet. Returns how long it took, in seconds. Raises
    SWITCHOVER_FAILED if it fails, and FENCED."""
    operation = context.migration.operations.current
    if operation is None or HookName.BEFORE_FREEZE not in hooks.commands(context, operation.options):
        return 0.0
    began = time.monotonic()
    feed.tell(StepName.HOOK_BEFORE_FREEZE, StepState.STARTED)
    context.migration.handover.starting_hook(operation.operation_id)
    await context.journal.save(strict=True)
    await at_step(operation.kind, StepName.HOOK_BEFORE_FREEZE, Edge.BEGIN)
    if failure := await hooks.run_hook(context, operation, HookName.BEFORE_FREEZE):
        feed.tell(StepName.HOOK_BEFORE_FREEZE, StepState.FAILED, failure)
        raise PgmigError(
            ErrorKind.SWITCHOVER_FAILED,
            f"hook {HookName.BEFORE_FREEZE} failed: {failure}",
            "writes were not blocked; correct the command, then switch over again",
        )
    await at_step(operation.kind, StepName.HOOK_BEFORE_FREEZE, Edge.END)
    feed.tell(StepName.HOOK_BEFORE_FREEZE, StepState.DONE)
    return time.monotonic() - began


def pauses(context: Context) -> bool:
    operation = context.migration.operations.current
    return operation is not None and bool(operation.options.pause_poolers)


async def pause(context: Context, feed: StepFeed, deadline: float) -> None:
    """Pause the operation's poolers. From here on their clients wait. deadline: time.monotonic(). Raises
    TIMEOUT, and what `console.pause` raises."""
    operation = context.migration.operations.current
    assert operation is not None
    now = time.monotonic()
    feed.blocked_at = now
    await poolers.pause(context, operation, now + PAUSE_SHARE * (deadline - now))


def due(context: Context) -> bool:
    """Whether something has to be done before the current operation ends, or was left undone by another."""
    migration = context.migration
    if migration.handover.paused:
        return True
    operation = migration.operations.current
    return operation is not None and _hook_due(context, operation)


def _decided(context: Context) -> bool:
    return context.migration.decided_last


def _hook_due(context: Context, operation: Operation) -> bool:
    handover = context.migration.handover
    name = HookName.AFTER_DECISION if _decided(context) else HookName.AFTER_ROLLBACK
    begun = operation.state is OperationState.RUNNING or handover.hook_started(operation.operation_id)
    configured = name in hooks.commands(context, operation.options)
    return begun and configured and not handover.concluded(operation.operation_id)


async def conclude(context: Context, feed: StepFeed) -> tuple[str, ...]:
    """Do what is due after the decision or the roll-back. Returns what an operator has to do. Raises no
    error: if another coordinator has taken over, that one does it."""
    if not due(context):
        return ()
    try:
        await context.journal.check_ours()
        return await (_after_decision if _decided(context) else _after_rollback)(context, feed)
    except Exception as exc:
        error = cause(exc) or unexpected(context.migration, exc)
        if error.kind is ErrorKind.FENCED:
            log.error("hooks and poolers are left to another coordinator: %s", error)
            return ()
        context.migration.event(EventLevel.ERROR, f"hooks and poolers: {error}")
        return (error.message,)


async def _after_decision(context: Context, feed: StepFeed) -> tuple[str, ...]:
    failure = await _hook_after(context, feed, HookName.AFTER_DECISION, StepName.HOOK_AFTER_DECISION)
    told = [f"hook {HookName.AFTER_DECISION} failed: {failure}"] if failure else []
    if not _led(context):  # stored at once: the next coordinator must not resume them after a failed hook
        why = "failed" if failure else "is not known to have succeeded"
        told += poolers.leave_paused(context, f"hook {HookName.AFTER_DECISION} {why}")
    await _save(context)
    return (*told, *await _resume(context, feed))


def _led(context: Context) -> bool:
    """Whether clients of paused poolers may be resumed after the decision: they do not reach a source that
    accepts writes, or one that a hook was expected to replace."""
    handover, operation = context.migration.handover, context.migration.record.operations[-1]
    if handover.hook_succeeded(operation.operation_id):
        return True
    expected = hooks.expected_after_decision(context, operation.options)
    closed = operation.options.freeze is FreezeMode.DATABASE
    return closed and not expected and not handover.hook_expected(operation.operation_id)


async def _after_rollback(context: Context, feed: StepFeed) -> tuple[str, ...]:
    told = await _resume(context, feed)
    failure = await _hook_after(context, feed, HookName.AFTER_ROLLBACK, StepName.HOOK_AFTER_ROLLBACK)
    await _save(context)
    return (*told, f"hook {HookName.AFTER_ROLLBACK} failed: {failure}") if failure else told


async def _hook_after(context: Context, feed: StepFeed, name: HookName, step: StepName) -> str:
    """Run the hook if it is due. Returns why it failed. The record is not saved."""
    operation = context.migration.operations.current
    if operation is None or not _hook_due(context, operation):
        return ""
    feed.tell(step, StepState.STARTED)
    await at_step(operation.kind, step, Edge.BEGIN)
    failure = await hooks.run_hook(context, operation, name)
    await at_step(operation.kind, step, Edge.END)
    if failure:
        context.migration.event(EventLevel.ERROR, f"hook {name} failed: {failure}")
    feed.tell(step, StepState.FAILED if failure else StepState.DONE, failure)
    context.migration.handover.concluding(operation.operation_id, succeeded=not failure)
    return failure


async def _resume(context: Context, feed: StepFeed) -> tuple[str, ...]:
    if not context.migration.handover.paused:
        return ()
    feed.tell(StepName.RESUME_POOLERS, StepState.STARTED)
    kind = context.migration.operations.kind
    await at_step(kind, StepName.RESUME_POOLERS, Edge.BEGIN)
    told = await poolers.resume(context)
    await at_step(kind, StepName.RESUME_POOLERS, Edge.END)
    feed.tell(StepName.RESUME_POOLERS, StepState.FAILED if told else StepState.DONE, "; ".join(told))
    await _save(context)
    return told


async def _save(context: Context) -> None:
    """If it is not saved, it is done once more after a crash."""
    try:
        await context.journal.save()
    except PgmigError as exc:
        if exc.kind is ErrorKind.FENCED:
            raise
        log.error("hooks and poolers of migration %s: %s", context.migration.id, exc)
