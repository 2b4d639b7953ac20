"""The commands that an operator wants to be run around a switchover.

before-freeze   before anything is blocked. Its failure ends the switchover
after-decision  the destination has replaced the source. Runs at least once, also after crashes
after-rollback  the source accepts writes again, if the hook before the freeze was started, or the switchover
                had begun to block writes. Runs at least once, too

A command gets facts in PGMIG_* variables, and as JSON on its standard input. Its output goes to the event
log.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import replace

from services.coordinator.migration.record import Record
from services.coordinator.operations.hook_process import Ran, divided, run_command
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.reports import unexpected
from services.shared.model import (
    Direction,
    Endpoint,
    ErrorKind,
    EventLevel,
    HookName,
    MigrationPhase,
    Operation,
    OperationKind,
    PgmigError,
    SwitchoverOptions,
)
from services.shared.model.redaction import has_password, redact
from services.shared.model.view.jsonview import to_json
from services.shared.pg.session.uri import endpoint
from services.shared.runtime.assignments import cause

INPUT_VERSION = 1
"""Of the JSON on a command's standard input. Raised when a field changes its meaning or is removed."""
LONGEST_COMMAND = 4096
LONGEST_TIMEOUT_MS = 3_600_000
FIND_S = 5.0
"""For finding the primaries that a command is told, if they are not known yet."""


def commands(context: Context, options: SwitchoverOptions) -> dict[HookName, str]:
    """Those of the switchover, and those of the coordinator's settings where it brings none."""
    found = context.hooks.commands | {name: text for name, text in options.hooks.items() if text}
    return {name: text for name, text in found.items() if text}


def expected_after_decision(context: Context, options: SwitchoverOptions) -> bool:
    """Whether somebody wants a hook to lead applications to the destination."""
    name = HookName.AFTER_DECISION
    return bool(options.hooks[name] or context.hooks.commands.get(name))


def check_accepted(context: Context, options: SwitchoverOptions) -> None:
    """Raises INVALID_ARGUMENT for options that this coordinator does not accept."""
    _check_permitted(context, options)
    given = [text for text in options.hooks.values() if text]
    if any(len(text) > LONGEST_COMMAND for text in given):
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"the command of a hook is longer than {LONGEST_COMMAND} characters",
            "put it into a script",
        )
    if any(has_password(text) for text in given):
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            "the command of a hook seems to contain a password, and pgmig would record and show it",
            "put it into a file that the command reads, like ~/.pgpass",
        )
    if options.hook_timeout_ms > LONGEST_TIMEOUT_MS:
        raise PgmigError(ErrorKind.INVALID_ARGUMENT, "the time limit of hooks is longer than an hour")
    check_commands(context, options)


def _check_permitted(context: Context, options: SwitchoverOptions) -> None:
    """Raises INVALID_ARGUMENT for commands of clients, if this coordinator does not run any. The record of an
    operation may have some: another coordinator has accepted them, or somebody has written the record."""
    if any(options.hooks.values()) and not context.hooks.from_clients:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            "this coordinator does not run commands that clients give (hooks of a switchover)",
            "set PGMIG_HOOK_BEFORE_FREEZE, PGMIG_HOOK_AFTER_DECISION or PGMIG_HOOK_AFTER_ROLLBACK in its "
            "environment, or PGMIG_ALLOW_HOOKS=1 if everybody who reaches it may run commands on its host",
        )


def check_commands(context: Context, options: SwitchoverOptions) -> None:
    """Check that each program can be executed, and may be. Raises INVALID_ARGUMENT."""
    _check_permitted(context, options)
    for text in commands(context, options).values():
        divided(text)


async def run_hook(context: Context, operation: Operation, name: HookName) -> str:
    """Run the command of a hook that has one. Returns why it failed; "": it succeeded."""
    migration = context.migration
    text = commands(context, operation.options)[name]
    began = time.monotonic()
    try:
        _check_permitted(context, operation.options)
        ends = await _ends(context, operation)
        migration.event(EventLevel.INFO, f"hook {name} is run: {redact(text)}")
        ran = await run_command(
            divided(text),
            variables(context, operation, name, ends),
            standard_input(context, operation, name, ends),
            operation.options.hook_timeout_ms / 1000,
        )
    except Exception as exc:  # the program was removed meanwhile, or an error of ours
        ran = Ran((cause(exc) or unexpected(migration, exc)).message)
    for line in ran.lines:
        migration.event(EventLevel.WARNING if ran.failure else EventLevel.INFO, f"hook {name}: {line}")
    if ran.failure:
        return ": ".join([ran.failure, *ran.lines[-1:]])
    migration.event(EventLevel.INFO, f"hook {name} succeeded after {time.monotonic() - began:.1f} s")
    return ""


async def _ends(context: Context, operation: Operation) -> tuple[Endpoint, Endpoint]:
    """The side that serves writers before the operation, and the one that does so afterwards.

    Where a connection string names several servers, the host is that of the primary: as last found, or the
    one that was switched over, or at last the first that is named.
    """
    record, direction = context.migration.record, context.pipeline.id.direction
    back = operation.kind is OperationKind.ROLLBACK
    wanted = Direction.REVERSE if back else Direction.FORWARD
    ends = record.ends(wanted)
    if all(len(where.servers) == 1 for where in ends):
        return ends
    with suppress(PgmigError, TimeoutError):
        async with asyncio.timeout(FIND_S):
            await context.credentials.find_primaries(again=False)
    known = context.credentials.known
    known = known if wanted is direction else known.swapped()
    return (
        _at(ends[0], known.source_uri, record, "source"),
        _at(ends[1], known.destination_uri, record, "destination"),
    )


def _at(where: Endpoint, uri: str, record: Record, side: str) -> Endpoint:
    found = endpoint(uri).servers if uri else ()
    if len(found) == 1:
        return replace(where, host=found[0][0], port=found[0][1])
    if len(where.servers) > 1 and record.phase is MigrationPhase.SWITCHED_OVER and record.certificates:
        certified = json.loads(record.certificates[-1].document)[side]
        return replace(where, host=certified["host"], port=certified["port"])
    return where


def variables(
    context: Context, operation: Operation, name: HookName, ends: tuple[Endpoint, Endpoint]
) -> dict[str, str]:
    """The facts in a command's environment. No passwords."""
    record = context.migration.record
    source, destination = ends
    return {
        "PGMIG_HOOK": name.value,
        "PGMIG_ID": record.migration_id,
        "PGMIG_OPERATION_ID": operation.operation_id,
        "PGMIG_OPERATION": operation.kind.value,
        "PGMIG_FREEZE": operation.options.freeze.value,
        "PGMIG_FAILURE": operation.failure.message if operation.failure else "",
        "PGMIG_SENTINEL_LSN": str(record.switchover.sentinel_lsn) if record.switchover else "",
        "PGMIG_SOURCE_HOST": source.host,
        "PGMIG_SOURCE_PORT": str(source.port),
        "PGMIG_SOURCE_DBNAME": source.dbname,
        "PGMIG_SOURCE_USER": source.user,
        "PGMIG_DEST_HOST": destination.host,
        "PGMIG_DEST_PORT": str(destination.port),
        "PGMIG_DEST_DBNAME": destination.dbname,
        "PGMIG_DEST_USER": destination.user,
    }


def standard_input(
    context: Context, operation: Operation, name: HookName, ends: tuple[Endpoint, Endpoint]
) -> bytes:
    """docs/operating.md describes it. `operation` has the form of `pgmig-cli operations --output json`."""
    record = context.migration.record
    facts = {
        "version": INPUT_VERSION,
        "hook": name.value,
        "migration_id": record.migration_id,
        "operation": to_json(operation),
        "result": to_json(record.switchover),
        "source": to_json(ends[0]),
        "destination": to_json(ends[1]),
    }
    return json.dumps(facts).encode() + b"\n"
