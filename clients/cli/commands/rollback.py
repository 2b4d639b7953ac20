"""`rollback` and `finalize`: the way back after `switchover --reverse`, and the end of replication."""

from __future__ import annotations

import secrets
from dataclasses import replace

import click

from clients.cli.commands.switchover import Asked, carry_out
from clients.cli.commands.teardown import confirm, end_if_left
from clients.cli.coordinator import coordinated
from clients.cli.hook_options import hook_options
from clients.cli.option_values import duration, lag
from clients.cli.options import Invocation, Uris, common_options, uri_options
from clients.cli.output import print_json, print_table
from clients.cli.signals import run
from services.shared.model import LagLimit, MigrationView, OperationKind, SwitchoverOptions
from services.shared.model.view.jsonview import view_to_json


@click.command()
@common_options
@click.option(
    "--timeout",
    type=duration,
    metavar="DURATION",
    default="30s",
    show_default=True,
    help="Longest time that writes may be blocked. After it the rollback is undone.",
)
@click.option("--hold", is_flag=True, help="Prepare everything, then wait for `switchover --proceed`.")
@click.option("--detach", is_flag=True, help="Print the id of the operation, and do not wait for its end.")
@click.option(
    "--request-id",
    metavar="TEXT",
    default="",
    help="A second request with the same id gets the same rollback. [default: a random id]",
)
@click.option(
    "--max-lag",
    type=lag,
    metavar="LAG",
    help="Largest lag of the source with which writes are blocked, as a duration or a size: 5s, 64MB.",
)
@hook_options
def rollback(
    invocation: Invocation,
    *,
    timeout: float,
    hold: bool,
    detach: bool,
    request_id: str,
    max_lag: LagLimit | None,
    around: SwitchoverOptions,
) -> None:
    """Go back after `switchover --reverse`: block writes on the destination, prove that the source has
    everything, and let the source serve writers again.

    It is the switchover in the other direction, with the same steps and the same proof. If it cannot finish
    in time, it is undone, and the destination continues to serve writers. Afterwards changes are replicated
    to the destination again, and another switchover is possible. `switchover --attach`, `--cancel` and
    `--proceed` work for a rollback, too.
    """
    if timeout <= 0:
        raise click.BadParameter("must be more than 0", param_hint="--timeout")
    options = replace(
        around, timeout_ms=max(1, round(timeout * 1000)), hold=hold, max_lag=max_lag or LagLimit()
    )
    asked = Asked(None, request_id or secrets.token_hex(8), OperationKind.ROLLBACK)
    carry_out(invocation, options, asked, detach=detach)


@click.command()
@uri_options
@common_options
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def finalize(invocation: Invocation, uris: Uris, yes: bool) -> None:
    """End a migration after `switchover --reverse`, or one with --bidirectional: stop replicating, and remove
    from both servers what that needed. `rollback` is not possible any more.

    After `switchover --reverse` the old source stays read-only by default; `unfreeze` changes that. With
    --bidirectional it waits until each side has what the other one has committed; what is committed later
    stays on its side. What is on a server that cannot be reached is listed, with exit code 9. `cleanup`
    removes it later.
    """
    if not yes:
        confirm("Finalize the migration? Afterwards no changes are replicated, and it cannot be rolled back.")
    view = run(_finalize(invocation, uris))
    if invocation.json:
        print_json(view_to_json(view))
    else:
        print_table(f"migration {view.migration_id} is in phase {view.phase}")
    end_if_left(view.left, view.migration_id, forced=False)


async def _finalize(invocation: Invocation, uris: Uris) -> MigrationView:
    async with coordinated(invocation, uris, "finalize") as (session, migration_id):
        return await session.finalize(migration_id.value, uris.source or None, uris.destination or None)
