"""`skip-transaction`: skipping the one transaction that the destination refuses."""

from __future__ import annotations

import getpass
import socket

import click

from clients.cli.coordinator import coordinated
from clients.cli.option_values import position
from clients.cli.options import Invocation, Uris, common_options, uri_options
from clients.cli.output import print_json, print_table
from clients.cli.signals import run
from services.shared.model import Lsn, MigrationView
from services.shared.model.view.jsonview import view_to_json


@click.command(name="skip-transaction")
@uri_options
@common_options
@click.option(
    "--lsn",
    type=position,
    metavar="LSN",
    required=True,
    help="LSN of the failed transaction's commit record, as shown by `status`.",
)
@click.option(
    "--reason", required=True, help="Reason for skipping the transaction. The audit record keeps it."
)
def skip_transaction(invocation: Invocation, uris: Uris, lsn: Lsn, reason: str) -> None:
    """Skip the source transaction on which a migration failed, and continue.

    None of its changes is applied on the destination; everything before and after it is. The migration
    records who skipped it, when, what and why, and `status` shows this. If no process is running any
    more, use `follow` to continue afterwards.
    """
    if not reason.strip():
        raise click.BadParameter("must say something", param_hint="--reason")
    view = run(_skip(invocation, uris, lsn, reason))
    if invocation.json:
        print_json(view_to_json(view))
    else:
        print_table(
            f"transaction at {lsn} is skipped; migration {view.migration_id} is in phase {view.phase}"
        )


async def _skip(invocation: Invocation, uris: Uris, lsn: Lsn, reason: str) -> MigrationView:
    async with coordinated(invocation, uris, "skip a transaction of") as (session, migration_id):
        return await session.skip_transaction(
            migration_id.value,
            lsn,
            reason,
            _operator(),
            source_uri=uris.source or None,
            destination_uri=uris.destination or None,
        )


def _operator() -> str:
    """USER@HOST."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no such account, as in a container with an arbitrary uid
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
