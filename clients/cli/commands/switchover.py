"""`switchover`: blocking writes, and ending the migration with the destination as primary database."""

from __future__ import annotations

import click

from clients.cli.coordinator import connected
from clients.cli.fragments import step_text
from clients.cli.option_values import duration
from clients.cli.options import Invocation, common_options
from clients.cli.output import print_json, print_table
from clients.cli.signals import Interrupted, run
from clients.diagnostics import say, talk
from clients.presentation.sentences import switchover_result
from services.shared.model import (
    ErrorKind,
    PgmigError,
    SwitchoverResult,
    SwitchoverStep,
)
from services.shared.model.view.jsonview import to_json


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
def switchover(invocation: Invocation, timeout: float) -> None:
    """Block writes on the source, prove that the destination has everything, and end the migration.

    A switchover that cannot finish in time is rolled back, and the migration continues.
    """
    if timeout <= 0:
        raise click.BadParameter("must be more than 0", param_hint="--timeout")
    try:
        result = run(_switchover(invocation, timeout))
    except Interrupted:
        say("no longer waiting for the switchover; see how it went with `pgmig-cli status`")
        raise
    if not invocation.json:
        print_table(f"switched over: {switchover_result(result)}")


async def _switchover(invocation: Invocation, timeout_s: float) -> SwitchoverResult:
    last: SwitchoverStep | None = None
    async with connected(invocation, "switch over") as (session, migration_id):
        try:
            async for step in session.switchover(migration_id.value, timeout_s):
                _show(invocation, step)
                last = step
        except PgmigError as exc:
            if exc.kind is ErrorKind.UNREACHABLE and last is not None:
                raise _out_of_sight(exc) from exc
            raise
    if last is None or last.result is None:
        told = f": {last.name} {last.state}, {last.detail}" if last else ""
        raise PgmigError(
            ErrorKind.SWITCHOVER_FAILED,
            f"the switchover did not finish{told}",
            "see `pgmig-cli status`; the migration continues",
        )
    return last.result


def _out_of_sight(error: PgmigError) -> PgmigError:
    """The coordinator was lost after the switchover had begun."""
    return PgmigError(
        error.kind,
        f"the coordinator was lost during the switchover: {error.message}",
        "see with `pgmig-cli status` whether it was completed; until a coordinator is back, which rolls it "
        "back if it was not, writes to the source may stay blocked",
    )


def _show(invocation: Invocation, step: SwitchoverStep) -> None:
    if invocation.json:
        print_json(to_json(step), line=True)
    else:
        talk(step_text(step))
