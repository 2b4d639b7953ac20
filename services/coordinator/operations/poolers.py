"""Pausing PgBouncer before the freeze, and resuming it after the decision or the roll-back.

The record has the paused poolers before PAUSE is sent. So a coordinator that is started after a crash resumes
them. Passwords are only in memory (services.coordinator.pipeline.hook_settings).
"""

from __future__ import annotations

import asyncio
import time

from services.coordinator.operations import hooks
from services.coordinator.pipeline.parts import Context
from services.shared.model import ErrorKind, EventLevel, Operation, PgmigError, back_off_s
from services.shared.pg.pooler import console
from services.shared.runtime.assignments import cause

RESUME_FOR_S = 30.0
"""How long RESUME is attempted before an operator is asked to do it."""
ATTEMPT_S = 8.0
"""For one attempt, with its connection."""
FIRST_DELAY_S, LONGEST_DELAY_S = 0.2, 3.0
_OPERATORS = frozenset({ErrorKind.AUTHENTICATION, ErrorKind.PERMISSION, ErrorKind.INVALID_ARGUMENT})
"""Only an operator can correct these."""


async def check(context: Context, poolers: tuple[str, ...]) -> None:
    """Check that each can be paused. Raises what `console.check` raises."""
    for pooler in poolers:
        uri = context.poolers.last_given(pooler)
        try:
            async with asyncio.timeout(ATTEMPT_S):
                await console.check(uri)
        except TimeoutError as exc:
            raise _silent(pooler, "answer") from exc
        context.poolers.proven(pooler, uri)


def _silent(pooler: str, doing: str) -> PgmigError:
    return PgmigError(
        ErrorKind.UNREACHABLE,
        f"the pooler at {console.place(pooler)} did not {doing} within {ATTEMPT_S:g} s",
        "see that the pooler runs and can be reached",
    )


async def pause(context: Context, operation: Operation, deadline: float) -> None:
    """Return when all poolers of the operation are paused. deadline: time.monotonic(). Raises TIMEOUT. After
    an error some may be paused: those that the record names."""
    poolers = operation.options.pause_poolers
    seconds = max(0.0, deadline - time.monotonic())
    expected = hooks.expected_after_decision(context, operation.options)
    context.migration.handover.pausing(operation.operation_id, poolers, hook_expected=expected)
    await context.journal.save(strict=True)
    try:
        async with asyncio.TaskGroup() as pausing:
            for pooler in poolers:
                pausing.create_task(_pause(context, pooler, seconds))
    except BaseExceptionGroup as group:
        if (error := cause(group)) is None:
            raise
        raise error from group


async def _pause(context: Context, pooler: str, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await console.pause(context.poolers.uri(pooler))
    except TimeoutError as exc:
        raise PgmigError(
            ErrorKind.TIMEOUT,
            f"the pooler at {console.place(pooler)} was not paused within {seconds:.1f} s, half of the time "
            "that is left: it waits for transactions of its clients",
            "look for long transactions (SHOW SERVERS on its console); with pool_mode=session PgBouncer "
            "waits until clients disconnect, so use pool_mode=transaction or do not pause the pooler",
        ) from exc
    except PgmigError as exc:
        if exc.kind is ErrorKind.WRONG_PHASE:  # somebody else has paused it, and will resume it
            context.migration.handover.resumed(pooler)
        raise
    context.migration.event(EventLevel.INFO, f"the pooler at {console.place(pooler)} is paused")


async def resume(context: Context) -> tuple[str, ...]:
    """Resume all poolers that may be paused. Returns what an operator has to do; nothing, if all of them are
    resumed. Those that are not stay in the record. The record is not saved."""
    paused = context.migration.handover.paused
    told = await asyncio.gather(*(_resume(context, pooler) for pooler in paused))
    return tuple(text for text in told if text)


async def _resume(context: Context, pooler: str) -> str:
    migration, place = context.migration, console.place(pooler)
    deadline, failures = time.monotonic() + RESUME_FOR_S, 0
    while True:
        try:
            async with asyncio.timeout(ATTEMPT_S):
                paused = await console.resume(context.poolers.uri(pooler))
            break
        except (PgmigError, TimeoutError) as exc:
            error = exc if isinstance(exc, PgmigError) else _silent(pooler, "resume")
        if error.kind in _OPERATORS or time.monotonic() >= deadline:
            text = f"{error.message}: its clients still wait. Resume it: {console.by_hand(pooler)}"
            migration.event(EventLevel.ERROR, text)
            return text
        migration.event(EventLevel.WARNING, f"{error.message}; pgmig tries again to resume the pooler")
        await asyncio.sleep(back_off_s(FIRST_DELAY_S, LONGEST_DELAY_S, failures))
        failures += 1
    migration.handover.resumed(pooler)
    known = "is resumed" if paused else "was not paused any more"
    migration.event(EventLevel.INFO, f"the pooler at {place} {known}")
    return ""


def leave_paused(context: Context, why: str) -> tuple[str, ...]:
    """Leave them to an operator: they may still lead to the old source. Returns what is to be done."""
    told = []
    for pooler in context.migration.handover.paused:
        place = console.place(pooler)
        text = (
            f"the pooler at {place} stays paused, because {why}: lead it to the new server, then resume it: "
            f"{console.by_hand(pooler)}"
        )
        context.migration.event(EventLevel.ERROR, text)
        context.migration.handover.resumed(pooler)
        told.append(text)
    return tuple(told)
