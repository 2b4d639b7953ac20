"""Asking the operator to agree to what a migration would first drop or empty on the destination.

The full list is always printed to stderr. `--yes` agrees to it in advance. A person at a terminal is
asked, and a script without `--yes` is refused. The plan's token identifies what was agreed to: the
coordinator executes exactly that plan or none.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from clients.cli.options import Uris
from clients.cli.progress import Progress
from clients.diagnostics import can_ask, say
from services.shared.model import ErrorKind, MigrationId, MigrationOptions, MigrationPlan, PgmigError

if TYPE_CHECKING:
    from clients.session import Session


async def agreed(
    session: Session,
    migration_id: MigrationId,
    uris: Uris,
    options: MigrationOptions,
    progress: Progress,
    *,
    yes: bool,
) -> MigrationOptions:
    """The options, with the token of the confirmed plan. Raises CONFIRMATION_NEEDED if it was not
    confirmed, and DESTINATION_NOT_READY if the destination cannot be used at all."""
    if not (options.drop_if_exists or options.data_only):
        return options
    plan = await session.plan(migration_id.value, uris.source, uris.destination, options)
    if plan.misfits:
        for line in plan.misfits:
            say(f"  {line}")
        raise PgmigError(
            ErrorKind.DESTINATION_NOT_READY,
            f"the destination does not fit the rows in {len(plan.misfits)} places (see the list)",
            "change it there, leave tables out with --exclude-table or --exclude-table-data, or clone "
            "without --data-only",
        )
    if not plan.token:
        return options
    with progress.asking():
        for line in lines(plan):
            say(line)
        if not yes and not await _confirmed():
            raise PgmigError(
                ErrorKind.CONFIRMATION_NEEDED,
                "the destination has rows or objects that would be lost (see the list); nothing was changed",
                "repeat the command with --yes to agree to the list",
            )
    return replace(options, confirmed=plan.token)


def lines(plan: MigrationPlan) -> list[str]:
    """One line for each thing that would be lost, under a heading."""
    found = []
    if plan.drops:
        found += [
            "on the destination these are dropped and created again:",
            *(f"  {one}" for one in plan.drops),
        ]
    if plan.empties:
        found += ["on the destination these tables are emptied:", *(f"  table {one}" for one in plan.empties)]
    return found


async def _confirmed() -> bool:
    """Whether a person answers yes; False in a script. A signal ends the question."""
    if not can_ask():
        return False
    say("Continue? [y/N]")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def on_line() -> None:
        if not answer.done():
            answer.set_result(sys.stdin.readline())

    loop.add_reader(sys.stdin, on_line)
    try:
        return (await answer).strip().lower() in {"y", "yes"}
    finally:
        loop.remove_reader(sys.stdin)
